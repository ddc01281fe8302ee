//! The thread that looks and never touches.

use std::io;
use std::path::Path;

use mainstay_module::confine::confine;

/// Has this done on a thread of its own, held to looking as far as the kernel can: it is never taken back. The inner result
/// is what the thread came to, a panic among it.
pub fn looking<T: Send>(
    scratch: Option<&Path>,
    look: impl FnOnce() -> T + Send,
) -> io::Result<std::thread::Result<T>> {
    std::thread::scope(|scope| {
        let look = || {
            if let Err(error) = confine(scratch) {
                tracing::warn!(%error, "the kernel does not hold to looking what should only look");
            }
            look()
        };
        let thread = std::thread::Builder::new().name("state-looking".into()).spawn_scoped(scope, look)?;
        Ok(thread.join())
    })
}
