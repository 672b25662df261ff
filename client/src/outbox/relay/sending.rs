//! What the broker's answers mean to the machine.

use super::machine::{BrokerFault, Producer, Sent};
use crate::error::{Refusal, RequestError};
use crate::outbox::encode::Encoded;
use posthouse_protocol::ErrorCode;
use posthouse_protocol::message::Committed;

/// What became of a claim.
pub(super) fn sent(answer: &Result<Committed, RequestError>, encoded: &Encoded) -> Sent {
    match answer {
        Ok(_) => Sent::Accepted,
        Err(RequestError::Closed { .. }) => Sent::Closed,
        Err(RequestError::Refused(refusal)) => refused(refusal, encoded),
        Err(
            RequestError::Name(_)
            | RequestError::TimedOut { .. }
            | RequestError::ConnectionLost
            | RequestError::Protocol(_),
        ) => Sent::Retry(None),
    }
}

fn refused(refusal: &Refusal, encoded: &Encoded) -> Sent {
    match (refusal.code(), refusal.at()) {
        (Some(ErrorCode::OutOfSequence), _) => Sent::OutOfSequence,
        (Some(ErrorCode::Fenced), _) => Sent::Fenced,
        (Some(ErrorCode::UnknownProducer), _) => Sent::UnknownProducer,
        (Some(ErrorCode::SequenceReused), _) => Sent::Reused,
        (
            Some(
                ErrorCode::NotFound
                | ErrorCode::TooLarge
                | ErrorCode::Malformed
                | ErrorCode::Invalid
                | ErrorCode::Forbidden
                | ErrorCode::Unsupported,
            ),
            Some(at),
        ) => Sent::Poison { rows: encoded.rows_at(at), reason: refusal.to_string() },
        (Some(ErrorCode::TooLarge), None) => Sent::TooLarge { reason: refusal.to_string() },
        // Whatever else it is, it is not these rows' fault.
        _ => Sent::Retry(refusal.retry_after()),
    }
}

/// Where the producer stands.
pub(super) fn producer(answer: Result<Producer, RequestError>) -> Result<Producer, BrokerFault> {
    match answer {
        Ok(producer) => Ok(producer),
        Err(RequestError::Closed { .. }) => Err(BrokerFault::Closed),
        Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(Producer::Unknown),
        Err(error) if error.code() == Some(ErrorCode::Fenced) => Err(BrokerFault::Fenced),
        Err(error) => Err(BrokerFault::Retry(error.retry_after())),
    }
}
