//! One table of options, from which the typed configuration, its mirror for files and the list
//! for documents are made, so that none of them can miss an option.

/// One option, for documents and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigOption {
    /// Its name in the file.
    pub key: &'static str,
    /// What it means, a line of text each.
    pub meaning: &'static [&'static str],
}

impl ConfigOption {
    /// Its name in the environment.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("POSTHOUSE_{}", self.key.to_ascii_uppercase())
    }
}

macro_rules! options {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty as $text:ty = $default:expr;)*) => {
        /// A broker's configuration. See the module.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])* pub $name: $type,)*
            /// Keeps the directory of [`Config::temporary`] while it is used.
            temporary: Option<Arc<tempfile::TempDir>>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* temporary: None }
            }
        }

        /// Every option, in the order of the documents.
        pub const OPTIONS: &[ConfigOption] = &[
            $(ConfigOption { key: stringify!($name), meaning: &[$($doc),*] },)*
        ];

        /// What one source says: the mirror of [`Config`] in which everything may be absent.
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $($name: Option<$text>,)*
        }

        impl File {
            /// What `self` says, and where it is silent what `lower` says.
            fn over(self, lower: Self) -> Self {
                Self { $($name: self.$name.or(lower.$name),)* }
            }

            /// Sets one option from text. `None`: there is no such option.
            fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
                match key {
                    $(stringify!($name) => Some(
                        <$text as value::Value>::parse(text).map(|value| self.$name = Some(value))
                    ),)*
                    _ => None,
                }
            }

            /// Replaces what this names.
            fn apply(self, config: &mut Config) {
                $(if let Some(value) = self.$name {
                    config.$name = value.into();
                })*
            }
        }

        impl Config {
            /// The options' values as TOML, in the order of [`OPTIONS`].
            fn values(&self) -> Vec<String> {
                vec![$(value::Value::to_toml(&<$text>::from(self.$name.clone())),)*]
            }
        }
    };
}

pub(super) use options;
