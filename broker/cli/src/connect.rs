//! Reaching the broker, and what its refusals mean for the exit code.

use crate::cli::Common;
use crate::exit::{Code, Failure};
use posthouse_client::{
    Client, ConnectError, ConsumeError, ErrorCode, Outcome, PublishError, ReadError, Refusal,
    RequestError,
};
use std::time::Duration;

/// How long to look for a broker before saying that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may take to confirm what was sent, once all is done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take unless the command line says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects, or says that there is no server.
pub(crate) async fn connect(common: &Common) -> Result<Client, Failure> {
    connect_for(common, REQUEST_TIMEOUT).await
}

/// The same, for requests that may take so long.
pub(crate) async fn connect_for(common: &Common, timeout: Duration) -> Result<Client, Failure> {
    let builder = Client::builder()
        .server(&common.server)
        .name(concat!("posthouse ", env!("CARGO_PKG_VERSION")))
        .operation_timeout(timeout)
        .connect_timeout(CONNECT_TIMEOUT);
    Ok(builder.connect().await?)
}

/// Gives back what was not taken and waits until everything settled is confirmed.
pub(crate) async fn close(client: &Client) -> Result<(), Failure> {
    let report = client.close(CLOSE_TIMEOUT).await;
    if report.unsent == 0 && report.unsettled == 0 {
        return Ok(());
    }
    let (unsent, unsettled) = (report.unsent, report.unsettled);
    let text = format!("no answer from the broker: {unsent} unsent, {unsettled} not settled");
    Err(Failure::new(Code::Unknown, text))
}

fn refused(refusal: &Refusal, outcome: Outcome, text: impl std::fmt::Display) -> Failure {
    let code = match (refusal.code(), outcome) {
        (Some(ErrorCode::NotFound), Outcome::Definite) => Code::NotFound,
        (_, Outcome::Definite) => Code::Refused,
        (_, Outcome::Unknown) => Code::Unknown,
    };
    Failure::new(code, text)
}

/// No refusal, and yet no answer: it may have happened, or nothing was ever sent.
fn unanswered(outcome: Outcome, text: impl std::fmt::Display) -> Failure {
    let code = match outcome {
        Outcome::Definite => Code::NoServer,
        Outcome::Unknown => Code::Unknown,
    };
    Failure::new(code, text)
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Address { .. } => Self::usage(error),
            ConnectError::Refused(refusal) => refused(refusal, Outcome::Definite, &error),
            ConnectError::Unreachable { .. } => {
                Self::new(Code::NoServer, format_args!("{error}; start one with: posthouse serve"))
            }
            _ => Self::new(Code::NoServer, error),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Name(_) => Self::usage(error),
            RequestError::Refused(refusal) => refused(refusal, refusal.outcome(), &error),
            RequestError::TimedOut { .. }
            | RequestError::ConnectionLost
            | RequestError::Closed { .. }
            | RequestError::Protocol(_)
            | _ => unanswered(error.outcome(), &error),
        }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match (&error, error.refusal()) {
            (PublishError::Invalid(_), _) => Self::refused(error),
            (_, Some(refusal)) => refused(refusal, error.outcome(), &error),
            (_, None) => unanswered(error.outcome(), &error),
        }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        match error.refusal() {
            Some(refusal) => refused(refusal, refusal.outcome(), &error),
            None => Self::new(Code::Unknown, error),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Request(request) => request.into(),
            ReadError::BeyondEnd { .. } => Self::new(Code::NotFound, error),
            ReadError::Damaged { .. } | ReadError::NoSubscription | _ => Self::refused(error),
        }
    }
}
