//! Operators and a hub whose every answer is known: the API over real sockets, the program as a real process.

mod api;
mod command_line;
mod fake_hub;
mod help;
mod remote;
mod slow;
