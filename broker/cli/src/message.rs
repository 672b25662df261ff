//! Messages as they are printed.

use crate::base64;
use crate::exit::Failure;
use crate::lines::{LINE_END, LINE_END_NONE, write_line};
use crate::time;
use posthouse_client::Record;
use serde::Serialize;
use std::io::{self, Write};

/// A message as JSON. Bytes that are not UTF-8 stand under the same name with `_base64`.
#[derive(Debug, Serialize)]
pub(crate) struct MessageObject<'a> {
    topic: &'a str,
    offset: u64,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Debug, Serialize)]
struct HeaderObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// `bytes` as text, or else in base64.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64::encode(bytes))),
    }
}

impl<'a> MessageObject<'a> {
    /// `attempt` only for deliveries.
    pub(crate) fn new(topic: &'a str, record: &'a Record, attempt: Option<u32>) -> Self {
        let (body, body_base64) = text_or_base64(record.body());
        let (key, key_base64) = record.key().map(text_or_base64).unwrap_or_default();
        let headers = record.headers().map(|(name, value)| {
            let (name, name_base64) = text_or_base64(name);
            let (value, value_base64) = text_or_base64(value);
            HeaderObject { name, name_base64, value, value_base64 }
        });
        Self {
            topic,
            offset: record.offset().0,
            id: record.id().to_string(),
            created_at: time::print_known(record.created_at()),
            attempt,
            key,
            key_base64,
            headers: headers.collect(),
            body,
            body_base64,
        }
    }
}

/// Writes a message: an object with `json`, else its body and a line end.
pub(crate) fn write_message(
    out: &mut impl Write,
    json: bool,
    (topic, record, attempt): (&str, &Record, Option<u32>),
) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &MessageObject::new(topic, record, attempt))?;
        return out.write_all(b"\n");
    }
    let open = record.headers().any(|(name, value)| name == LINE_END && value == LINE_END_NONE);
    write_line(out, record.body(), !open)
}

/// Prints a message that was looked at.
pub(crate) fn print_record(
    output: &mut crate::output::Output,
    topic: &str,
    record: &Record,
) -> Result<(), Failure> {
    let json = output.is_json();
    write_message(output.writer(), json, (topic, record, None))
        .map_err(|error| Failure::stdout(&error))
}
