//! A hub driven by a fake courier and by fake nodes that sign as real ones do. No sockets, no sleeping to be right.

mod approval;
mod enrolment;
mod fakes;
mod faults;
mod keeping;
mod messages;
mod runs;
mod scale;
