//! The delivery engine under everything that can go wrong between machines: frames lost, repeated and out of
//! order, links that come and go, nodes that die between any two effects, disks that are full.

mod fleet;
mod hostile;
mod journal;
mod random;
mod restarts;
mod rules;
mod scenes;
