//! Whole fleets of real processes on this machine: what people see when machines, hubs and networks fail.

mod disk;
mod enrolment;
mod extensions;
mod lab;
mod members;
mod messages;
mod outages;
mod runs;
mod secrets;
mod states;
mod strangers;
mod tour;
