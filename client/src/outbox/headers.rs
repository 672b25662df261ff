//! Message headers as text in a table: `[["name", "value"], ...]`, easy to write from SQL and to
//! read when one looks at the table. A name or value that is not UTF-8 is `{"base16": "..."}`.

use bytes::Bytes;
use serde_json::{Value, json};
use std::fmt;

/// The key of the object that stands for bytes which are not UTF-8.
const BASE16: &str = "base16";

/// The text for headers, in their order; empty for none.
///
/// ```
/// # use posthouse_client::outbox::headers;
/// let text = headers::encode(&[("trace".into(), "4bf9".into())]);
/// assert_eq!(text, r#"[["trace","4bf9"]]"#);
/// ```
#[must_use]
pub fn encode(headers: &[(Bytes, Bytes)]) -> String {
    if headers.is_empty() {
        return String::new();
    }
    let pairs = headers.iter().map(|(name, value)| json!([to_value(name), to_value(value)]));
    Value::Array(pairs.collect()).to_string()
}

/// The headers of a text; none for a text that is empty or blank.
///
/// # Errors
///
/// [`InvalidHeaders`], saying what is expected, if somebody has written something else.
pub fn decode(text: &str) -> Result<Vec<(Bytes, Bytes)>, InvalidHeaders> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| InvalidHeaders { found: error.to_string() })?;
    let Value::Array(pairs) = value else {
        return Err(invalid("not a list"));
    };
    pairs.iter().map(pair).collect()
}

fn pair(value: &Value) -> Result<(Bytes, Bytes), InvalidHeaders> {
    match value.as_array().map(Vec::as_slice) {
        Some([name, value]) => Ok((from_value(name)?, from_value(value)?)),
        _ => Err(invalid("an entry is not a pair")),
    }
}

fn to_value(bytes: &Bytes) -> Value {
    std::str::from_utf8(bytes).map_or_else(
        |_| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ BASE16: hex })
        },
        |text| Value::String(text.to_owned()),
    )
}

fn from_value(value: &Value) -> Result<Bytes, InvalidHeaders> {
    if let Some(text) = value.as_str() {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    let object = value.as_object().filter(|object| object.len() == 1);
    let hex = object.and_then(|object| object.get(BASE16)).and_then(Value::as_str);
    hex.and_then(from_hex).ok_or_else(|| invalid("a name or value is neither text nor base16"))
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok());
    if rest.is_empty() { bytes.collect() } else { None }
}

fn invalid(found: &str) -> InvalidHeaders {
    InvalidHeaders { found: found.to_owned() }
}

/// The text is not what [`encode`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHeaders {
    found: String,
}

impl fmt::Display for InvalidHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "headers are not [[\"name\", \"value\"], ...] with texts or {{\"base16\": \"..\"}}: {}",
            self.found
        )
    }
}

impl std::error::Error for InvalidHeaders {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were_with_order_and_duplicates() {
        let headers = [("b", "1"), ("a", ""), ("b", "\"\\\n\u{e4}")];
        let headers = headers.map(|(name, value)| (Bytes::from(name), Bytes::from(value)));

        assert_eq!(decode(&encode(&headers)), Ok(headers.to_vec()));
    }

    #[test]
    fn bytes_that_are_no_text_are_written_as_base16() {
        let headers = [(Bytes::from("raw"), Bytes::from_static(&[0xff, 0x00]))];

        let text = encode(&headers);

        assert_eq!(text, r#"[["raw",{"base16":"ff00"}]]"#);
        assert_eq!(decode(&text), Ok(headers.to_vec()));
    }

    #[test]
    fn nothing_and_blanks_are_no_headers() {
        assert_eq!(encode(&[]), "");
        for text in ["", " \n", "[]"] {
            assert_eq!(decode(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_form_that_is_expected() {
        let texts = [
            "{}",
            "[1]",
            r#"[["a"]]"#,
            r#"[["a", 1]]"#,
            r#"[["a", {"base16": "f"}]]"#,
            r#"[["a", {"base16": "gg"}]]"#,
            r#"[["a", {"base16": "ff", "more": 1}]]"#,
            "[[",
        ];
        for text in texts {
            let error = decode(text).unwrap_err().to_string();
            assert!(error.contains(r#"[["name", "value"], ...]"#), "{text}: {error}");
        }
    }
}
