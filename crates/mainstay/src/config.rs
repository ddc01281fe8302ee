//! Configuration of the daemons: flags, then `MAINSTAY_*` variables, then `<data>/mainstay.toml`, then
//! defaults. The file is written at the first start with every default, and keeps what flags say.

pub mod address;
pub mod agent;
pub mod data_dir;
pub mod file;
pub mod hub;
pub mod layers;
pub mod limits;
