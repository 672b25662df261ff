//! What an enqueue costs: the same business transaction without one, with one, and with a bare insert
//! of the same row, in turn.

use std::time::Duration;

use super::business::{Business, OnMariadb, OnPostgres, OnSqlite, Send};
use super::servers::Servers;
use super::{Database, Failed, Options};
use crate::probe::{self, Probe};
use crate::report;

/// Clients at the same time.
const CLIENTS: [u64; 3] = [1, 4, 16];
/// What is compared.
const KINDS: [Send; 3] = [Send::Nothing, Send::Bare, Send::Message];

pub(super) async fn run(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(&options.common.dir)?;
    let probe = Probe::new(dir.path())?;
    report::line("tax of an enqueue on a business transaction (one update, one insert), synced");
    report::line("database  clients   tx/s without  bare insert  enqueue   tax: bare  enqueue");
    for database in &options.databases {
        let servers = Servers::start(*database, dir.path())?;
        match database {
            Database::Sqlite => {
                let business = OnSqlite::set_up(servers.sqlite().await?).await?;
                measure(options, *database, &business).await?;
            }
            Database::Postgres => {
                let business = OnPostgres::set_up(servers.postgres().await?).await?;
                measure(options, *database, &business).await?;
            }
            Database::Mariadb => {
                let business = OnMariadb::set_up(servers.mariadb().await?).await?;
                measure(options, *database, &business).await?;
            }
        }
        report::line(probe::typical(&[probe.read()?]));
    }
    Ok(())
}

async fn measure(
    options: &Options,
    database: Database,
    business: &impl Business,
) -> Result<(), Failed> {
    let (slice, rounds) = if options.common.smoke {
        (Duration::from_millis(50), 1)
    } else {
        (Duration::from_secs_f64(options.slice), options.rounds)
    };
    for clients in CLIENTS {
        let mut figures = Vec::new();
        for round in 0..rounds {
            let mut rates = [0.0; 3];
            // Who goes first changes, so that a drift of the machine favours nobody.
            for turn in 0..KINDS.len() {
                let kind = (round + turn) % KINDS.len();
                if let (Some(send), Some(rate)) = (KINDS.get(kind), rates.get_mut(kind)) {
                    *rate = business.rate(clients, slice, *send).await?;
                }
                business.clear().await?;
            }
            figures.push(rates);
        }
        let middle = |figure: fn(&[f64; 3]) -> f64| report::median(figures.iter().map(figure));
        let [without, bare, with] =
            [middle(|rates| rates[0]), middle(|rates| rates[1]), middle(|rates| rates[2])];
        let [bare_tax, tax] =
            [middle(|rates| 1.0 - rates[1] / rates[0]), middle(|rates| 1.0 - rates[2] / rates[0])]
                .map(|tax| tax * 100.0);
        report::line(format_args!(
            "{database:<10}{clients:>7}{without:>15.0}{bare:>13.0}{with:>9.0}{bare_tax:>10.1} %\
             {tax:>7.1} %"
        ));
    }
    Ok(())
}
