//! Placeholder of the message file.
