//! placeholder
pub async fn start(
    _: &std::path::Path,
    _: crate::node::NodeHandle,
    _: &tokio_util::task::TaskTracker,
    _: tokio_util::sync::CancellationToken,
) -> std::io::Result<()> {
    Ok(())
}
