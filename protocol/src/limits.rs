//! Every limit of the protocol, in one file.
//!
//! A peer that exceeds one gets [`ErrorCode::TooLarge`](crate::ErrorCode::TooLarge)
//! or [`ErrorCode::Malformed`](crate::ErrorCode::Malformed); nothing is truncated in silence, except
//! texts for people, which their sender cuts at [`TEXT_BYTES_MAX`].

/// Longest topic, subscription or producer name, in bytes.
pub const NAME_BYTES_MAX: usize = 200;
/// Largest body of one message unless the broker is configured otherwise: 1 MiB.
pub const MESSAGE_BYTES_DEFAULT: u32 = 1 << 20;
/// Largest body of one message that any configuration allows: 16 MiB.
pub const MESSAGE_BYTES_MAX: u32 = 16 << 20;
/// Largest key of one message, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Most headers of one message.
pub const HEADERS_MAX: usize = 64;
/// Largest encoding of all headers of one message, in bytes.
pub const HEADERS_BYTES_MAX: usize = 32 << 10;
/// Most messages in one batch.
pub const BATCH_MESSAGES_MAX: u32 = 10_000;
/// Size at which a client closes a batch of several messages, unless told otherwise: 2 MiB.
pub const BATCH_BYTES_DEFAULT: u32 = 2 << 20;
/// Largest encoded batch: one message of [`MESSAGE_BYTES_MAX`] and its index.
pub const BATCH_BYTES_MAX: u32 = MESSAGE_BYTES_MAX + (1 << 20);
/// Largest first frame of a connection, in bytes.
pub const HELLO_FRAME_BYTES_MAX: u32 = 1024;
/// Largest head (the part that is not batch or message bytes) of a frame: 2 MiB, so that a list of
/// the most and longest names fits.
pub const HEAD_BYTES_MAX: u32 = 2 << 20;
/// Largest frame after the hello: a batch and a head.
pub const FRAME_BYTES_MAX: u32 = BATCH_BYTES_MAX + HEAD_BYTES_MAX;
/// Most entries of one list in a frame.
pub const LIST_ENTRIES_MAX: u32 = 4_096;
/// Most deliveries that one settlement or extension names, all its runs together. Not more than
/// [`LIST_ENTRIES_MAX`], so that the answer can refuse every one of them by name.
pub const SETTLE_DELIVERIES_MAX: u32 = LIST_ENTRIES_MAX;
/// Most operations of one commit: its messages, deliveries and cursor saves together.
pub const COMMIT_OPERATIONS_MAX: u32 = 10_000;
/// Longest human-readable text in a frame (error message, reason), in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Most credit a consumer may hold, in messages.
pub const CREDIT_MESSAGES_MAX: u32 = 100_000;
/// Credit in messages that the client grants unless told otherwise.
pub const CREDIT_MESSAGES_DEFAULT: u32 = 256;
/// Credit in bytes that the client grants unless told otherwise: 8 MiB.
pub const CREDIT_BYTES_DEFAULT: u64 = 8 << 20;
/// Most consumers on one connection.
pub const CONSUMERS_PER_CONNECTION_MAX: usize = 1000;
/// Seconds within which the first frame must have arrived.
pub const HELLO_SECONDS: u64 = 5;
/// Seconds without a frame after which a side sends a heartbeat.
pub const HEARTBEAT_SECONDS: u64 = 15;
/// Seconds without a frame after which the other side counts as gone.
pub const IDLE_SECONDS_MAX: u64 = 45;

const _: () = assert!(
    4 + LIST_ENTRIES_MAX as usize * (4 + NAME_BYTES_MAX) <= HEAD_BYTES_MAX as usize,
    "a full list of names fits into a head"
);
const _: () = assert!(
    64 + 40 + 16 + KEY_BYTES_MAX + HEADERS_BYTES_MAX + MESSAGE_BYTES_MAX as usize
        <= BATCH_BYTES_MAX as usize,
    "a batch can hold the largest message"
);
