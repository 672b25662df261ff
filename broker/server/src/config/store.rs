//! What the store needs to know of the configuration.

use super::Config;
use posthouse_storage::{Options, fs};

impl Config {
    /// The store's options, with fresh randomness for its salts.
    ///
    /// # Errors
    ///
    /// The system's, if it has no random bytes.
    pub(crate) fn store_options(&self) -> std::io::Result<Options> {
        Ok(Options {
            segment_bytes: self.segment_bytes,
            fold_bytes: self.fold_bytes,
            fold_idle: self.fold_idle,
            journal_keep_bytes: self.journal_keep_bytes,
            journal_keep_age: self.journal_keep_age,
            unfolded_bytes_max: self.unfolded_bytes_max,
            index_bytes_max: self.index_bytes_max,
            ..Options::new(fs::real::random_seed()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_store_s_own() {
        let ours = Config::default().store_options().unwrap();
        let theirs = Options::new(ours.seed);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
