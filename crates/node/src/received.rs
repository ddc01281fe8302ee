//! placeholder
pub struct Received;
impl Received {
    pub fn open(_: &std::path::Path, _: &[std::path::PathBuf]) -> std::io::Result<Self> {
        Ok(Self)
    }
}
