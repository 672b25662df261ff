//! How values become fields of a head: one trait, and two macros that derive it field by field.
//!
//! The order of the fields in a struct is the order on the wire; `docs/WIRE_PROTOCOL.md` shows it
//! and golden files keep it.

use crate::codec::{Sink, Source};
use crate::{
    Attempt, ConsumerId, DecodeError, Fence, LogIndex, Offset, PartitionId, ProducerEpoch,
    ProducerId, Sequence, StartEpoch, SubscriptionId, Timestamp, TopicId, limits, name::Name,
};

/// A value with a fixed encoding.
pub trait Wire: Sized {
    /// Fewest bytes that any value takes.
    const LEN_MIN: usize;

    /// Appends the value.
    fn encode<S: Sink>(&self, out: &mut S);

    /// Takes a value.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], naming `field` or a field inside it.
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError>;
}

macro_rules! wire_number {
    ($($name:ident: $put:ident $take:ident $len:literal),* $(,)?) => {$(
        impl Wire for $name {
            const LEN_MIN: usize = $len;
            fn encode<S: Sink>(&self, out: &mut S) {
                out.$put(self.0);
            }
            fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
                source.$take(field).map(Self)
            }
        }
    )*};
}

wire_number! {
    TopicId: put_u32 u32 4, PartitionId: put_u32 u32 4, SubscriptionId: put_u32 u32 4,
    ConsumerId: put_u32 u32 4, ProducerEpoch: put_u32 u32 4, StartEpoch: put_u32 u32 4,
    Attempt: put_u32 u32 4, Offset: put_u64 u64 8, ProducerId: put_u64 u64 8,
    Sequence: put_u64 u64 8, Timestamp: put_u64 u64 8, LogIndex: put_u64 u64 8,
}

macro_rules! wire_primitive {
    ($($name:ident: $put:ident $len:literal),* $(,)?) => {$(
        impl Wire for $name {
            const LEN_MIN: usize = $len;
            fn encode<S: Sink>(&self, out: &mut S) {
                out.$put(*self);
            }
            fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
                source.$name(field)
            }
        }
    )*};
}

wire_primitive! { u8: put_u8 1, u16: put_u16 2, u32: put_u32 4, u64: put_u64 8 }

impl Wire for bool {
    const LEN_MIN: usize = 1;
    fn encode<S: Sink>(&self, out: &mut S) {
        out.put_u8(u8::from(*self));
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        match source.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::Invalid { field, found: u64::from(found) }),
        }
    }
}

impl Wire for Fence {
    const LEN_MIN: usize = 12;
    fn encode<S: Sink>(&self, out: &mut S) {
        self.epoch.encode(out);
        out.put_u64(self.counter);
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        Ok(Self { epoch: StartEpoch::decode(source, field)?, counter: source.u64(field)? })
    }
}

/// Text for people: cut at [`limits::TEXT_BYTES_MAX`] when it is encoded.
impl Wire for String {
    const LEN_MIN: usize = 4;
    fn encode<S: Sink>(&self, out: &mut S) {
        let mut end = self.len().min(limits::TEXT_BYTES_MAX);
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        out.put_prefixed(self.get(..end).unwrap_or_default().as_bytes());
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        source.text(limits::TEXT_BYTES_MAX, field).map(Self::from)
    }
}

impl Wire for Name {
    const LEN_MIN: usize = 5;
    fn encode<S: Sink>(&self, out: &mut S) {
        out.put_prefixed(self.as_str().as_bytes());
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let text = source.text(limits::NAME_BYTES_MAX, field)?;
        Self::new(text).map_err(|_| DecodeError::Text { field })
    }
}

/// A list of at most [`limits::LIST_ENTRIES_MAX`]; a longer one could be encoded, but not decoded.
impl<T: Wire> Wire for Vec<T> {
    const LEN_MIN: usize = 4;
    fn encode<S: Sink>(&self, out: &mut S) {
        debug_assert!(
            self.len() as u64 <= u64::from(limits::LIST_ENTRIES_MAX),
            "a list of {} entries cannot be decoded",
            self.len()
        );
        out.put_count(self.len());
        self.iter().for_each(|item| item.encode(out));
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let count = source.count(limits::LIST_ENTRIES_MAX, T::LEN_MIN, field)?;
        (0..count).map(|_| T::decode(source, field)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    const LEN_MIN: usize = 1;
    fn encode<S: Sink>(&self, out: &mut S) {
        out.put_u8(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode(out);
        }
    }
    fn decode(source: &mut Source<'_>, field: &'static str) -> Result<Self, DecodeError> {
        bool::decode(source, field)?.then(|| T::decode(source, field)).transpose()
    }
}

/// Declares a struct and encodes its fields in their order.
///
/// `where check;` after a struct names a function that looks at a decoded value as a whole and may
/// refuse it.
#[macro_export]
macro_rules! wire_struct {
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }
        $(where $check:path;)?
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::wire::Wire for $name {
            const LEN_MIN: usize = 0 $(+ <$type as $crate::wire::Wire>::LEN_MIN)*;
            fn encode<S: $crate::codec::Sink>(&self, out: &mut S) {
                let _: &S = out; // A struct without fields writes nothing.
                $($crate::wire::Wire::encode(&self.$field, out);)*
            }
            fn decode(
                source: &mut $crate::codec::Source<'_>,
                field: &'static str,
            ) -> Result<Self, $crate::DecodeError> {
                let _: (&$crate::codec::Source<'_>, &str) = (source, field);
                let value = Self {
                    $($field: <$type as $crate::wire::Wire>::decode(
                        source,
                        concat!(stringify!($name), ".", stringify!($field)),
                    )?,)*
                };
                $($check(&value)?;)?
                Ok(value)
            }
        }
    )*};
}

/// Declares an enum of plain values, each with its number in one byte.
#[macro_export]
macro_rules! wire_choice {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $crate::wire::Wire for $name {
            const LEN_MIN: usize = 1;
            fn encode<S: $crate::codec::Sink>(&self, out: &mut S) {
                out.put_u8(match self { $(Self::$variant => $number,)* });
            }
            fn decode(
                source: &mut $crate::codec::Source<'_>,
                field: &'static str,
            ) -> Result<Self, $crate::DecodeError> {
                match source.u8(field)? {
                    $($number => Ok(Self::$variant),)*
                    found => Err($crate::DecodeError::Invalid { field, found: u64::from(found) }),
                }
            }
        }
    )*};
}

/// Declares an enum whose variants carry a struct each: a number in one byte, then the struct.
#[macro_export]
macro_rules! wire_union {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident($type:ty) = $number:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($type),)*
        }

        impl $crate::wire::Wire for $name {
            const LEN_MIN: usize = {
                let mut least = usize::MAX;
                $(if <$type as $crate::wire::Wire>::LEN_MIN < least {
                    least = <$type as $crate::wire::Wire>::LEN_MIN;
                })*
                1 + least
            };
            fn encode<S: $crate::codec::Sink>(&self, out: &mut S) {
                match self {
                    $(Self::$variant(value) => {
                        out.put_u8($number);
                        $crate::wire::Wire::encode(value, out);
                    })*
                }
            }
            fn decode(
                source: &mut $crate::codec::Source<'_>,
                field: &'static str,
            ) -> Result<Self, $crate::DecodeError> {
                match source.u8(field)? {
                    $($number => <$type as $crate::wire::Wire>::decode(source, field).map(Self::$variant),)*
                    found => Err($crate::DecodeError::Invalid { field, found: u64::from(found) }),
                }
            }
        }
    )*};
}
