//! Values that people write: sizes, periods, levels. Each is parsed and printed side by side.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A value of an option, in all its written forms.
pub(super) trait Value: Sized {
    /// From an environment variable or a flag.
    fn parse(text: &str) -> Result<Self, String>;
    /// As it stands in a TOML file.
    fn to_toml(&self) -> String;
}

/// A number of bytes: `1048576`, `64 KiB`, `64MiB`, `1 GiB`; also `kB`, `MB`, `GB` (powers of ten).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time: `250ms`, `30s`, `5m`, `1h`, `7d`, and sums such as `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Least important message that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something needs attention.
    Warn,
    /// What happened to the broker as a whole.
    Info,
    /// What happened to connections.
    Debug,
    /// What happened to messages.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const PERIODS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a size such as 64 MiB");
        let (number, unit) = split_unit(text.trim()).ok_or_else(wrong)?;
        if unit.is_empty() {
            return Ok(Self(number));
        }
        let (_, factor) =
            SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES.iter().filter(|(name, _)| name.ends_with("iB"));
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match exact.clone().find(fits) {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a length of time such as 30s or 1h 30m");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut millis = 0_u64;
        let mut longest = u64::MAX;
        while !rest.is_empty() {
            let (number, tail) = split_unit(rest).ok_or_else(wrong)?;
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let (_, factor) = PERIODS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            // Units fall, so that a slip such as `5m 10m` is not taken for a sum.
            if *factor >= longest {
                return Err(wrong());
            }
            longest = *factor;
            millis = number
                .checked_mul(*factor)
                .and_then(|part| millis.checked_add(part))
                .ok_or_else(wrong)?;
            rest = tail.trim_start();
        }
        if longest == u64::MAX {
            return Err(wrong());
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        let mut gap = "";
        for (unit, factor) in PERIODS {
            let count = rest / factor;
            if count > 0 {
                write!(f, "{gap}{count}{unit}")?;
                gap = " ";
            }
            rest %= factor;
        }
        Ok(())
    }
}

/// The number at the start of `text` and what follows it, without the space between.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit.trim_start()))
}

impl LogLevel {
    /// All, with their names.
    pub const ALL: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl LogFormat {
    /// All, with their names.
    pub const ALL: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

fn parse_choice<T: Copy>(all: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == text);
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.map(|(_, value)| *value).ok_or_else(|| format!("\"{text}\" is not one of {}", names()))
}

fn print_choice<T: Copy + PartialEq>(all: &[(&str, T)], value: T) -> String {
    let name = all.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| *name);
    quote(name)
}

/// `text` as a TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! choice {
    ($($type:ident),*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                parse_choice(Self::ALL, text)
            }
            fn to_toml(&self) -> String {
                print_choice(Self::ALL, *self)
            }
        }
    )*};
}

choice!(LogLevel, LogFormat);

macro_rules! human {
    ($($type:ident wraps $plain:ty, $expecting:literal;)*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
            }
            fn to_toml(&self) -> String {
                quote(&self.to_string())
            }
        }
        impl From<$type> for $plain {
            fn from(value: $type) -> Self {
                value.0
            }
        }
        impl From<$plain> for $type {
            fn from(value: $plain) -> Self {
                Self(value)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Written($expecting)).and_then(|text| text.parse().map_err(de::Error::custom))
            }
        }
    )*};
}

human! {
    ByteSize wraps u64, "a size such as \"64 MiB\"";
    Period wraps Duration, "a length of time such as \"30s\"";
}

/// Takes a string, or a bare number as if it were quoted.
struct Written(&'static str);

impl Visitor<'_> for Written {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("\"{text}\" is neither true nor false")),
        }
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("\"{text}\" is not a number from 0 to {}", Self::MAX))
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(Self::from(text)) }
    }
    fn to_toml(&self) -> String {
        quote(&self.to_string_lossy())
    }
}
