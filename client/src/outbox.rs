//! The transactional outbox: a message is a row in the sender's own database, committed or rolled
//! back with the business data; a relay hands it to the broker exactly once.

#[doc(hidden)]
pub mod batches;
mod encode;
mod floors;
pub mod headers;
mod new_row;
mod relay;
mod row;
pub mod sql;
mod store;

#[doc(hidden)]
pub use floors::Floors;
pub use new_row::{EnqueueError, NewRow};
pub use relay::{OnPoison, Relay, RelayError, RelayErrorKind, RelayHandle, RelayState, RelayStats};
pub use row::{Row, RowId};
pub use store::{
    Claim, Description, Lag, OutboxId, Park, Parked, RowRange, SCHEMA_VERSIONS, Standing, Step,
    Store, StoreError, StoreErrorKind,
};
