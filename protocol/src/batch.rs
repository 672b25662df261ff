//! The batch: messages encoded together by the producer, stored and delivered as they came.
//!
//! ```text
//! header   64 B   magic 'PHB1' | version u8 | body_format u8 | flags u16 | batch_len u32
//!                 count u32 | index_len u32 | header_crc u32 | created_at u64 | reserved 32 B (zero)
//! index           one entry a message, back to back
//! bodies          one body a message, back to back, in the same order
//!
//! entry    40 B   body_len u32 | crc u32 | id 16 B | created_at u64 | flags u8 | priority u8
//!                 key_len u16 | headers_len u32
//!          then   due_at u64 if flag 2 | expires_at u64 if flag 4 | key if flag 1 | headers
//! headers         count u16, then each: name_len u16 | value_len u32 | name | value
//! ```
//!
//! A message has one encoding: no flag for a time of zero, no key bytes without the key flag, no
//! header bytes without headers.
//!
//! `header_crc` is the CRC-32 of the header with that field zero, followed by the index.
//! A message's `crc` is the CRC-32 of its entry with that field left out, followed by its body.
//! Together they let the broker deliver any subset of a batch as entries and bodies, each
//! message still carrying a checksum made by its sender.

mod build;
mod message;
mod view;

pub use build::{BatchBuilder, encoded_len};
pub use message::{Headers, Message, MessageRef, Priority, key_hash};
pub use view::{BatchView, Entries, EntryRef, HEADER_LEN, Messages, peek_len};

/// Body format 1: bodies are the bytes the application gave, in our own layout.
pub const BODY_FORMAT_NATIVE: u8 = 1;
/// `PHB1`, little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PHB1");
/// Version of this layout.
pub const VERSION: u8 = 1;
/// Length of the fixed part of an index entry.
pub const ENTRY_LEN_MIN: usize = 40;

pub(crate) const FLAG_KEY: u8 = 1;
pub(crate) const FLAG_DUE: u8 = 2;
pub(crate) const FLAG_EXPIRES: u8 = 4;
pub(crate) const FLAGS_KNOWN: u8 = FLAG_KEY | FLAG_DUE | FLAG_EXPIRES;
