//! placeholder
pub(crate) fn run(_common: &crate::Common) -> std::io::Result<()> {
    Ok(())
}
