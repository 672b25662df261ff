//! Every source of options, every refusal, and that the page names every option.

use super::*;
use std::path::Path;

const OPERATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/OPERATIONS.md");

#[test]
fn every_option_stands_in_the_operations_page_with_its_default() {
    let page = std::fs::read_to_string(OPERATIONS).expect("the page is part of the repository");
    for (option, value) in OPTIONS.iter().zip(Config::default().values()) {
        let row = format!("| `{}` | `{}` | `{value}` |", option.key, option.variable());
        assert!(page.contains(&row), "docs/OPERATIONS.md has no row {row}");
    }
}

#[test]
fn printed_configuration_is_read_back_as_it_was() {
    let config = Config {
        listen: vec!["unix:/run/a \"b\".sock".parse().unwrap(), "[::1]:0".parse().unwrap()],
        fold_idle: Duration::from_millis(90_250),
        message_bytes_max: 1_000_001,
        ..Config::default()
    };
    let printed = config.to_toml();

    let mut read = Config::default();
    file::parse(Path::new("printed"), &printed).unwrap().apply(&mut read);

    assert_eq!(read.to_toml(), printed);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let (_directory, path) =
        written("fold_bytes = \"1 MiB\"\nconnections_max = 7\nlisten = \"localhost:1\"\n");
    let sources = Sources {
        file: Some(path),
        environment: pairs(&[
            ("POSTHOUSE_FOLD_BYTES", "2MiB"),
            ("POSTHOUSE_CONNECTIONS_MAX", "8"),
            ("POSTHOUSE_SERVER", "elsewhere:1"),
            ("POSTHOUSE_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
            ("POSTHOUSE_LOG_LEVEL", ""),
        ]),
        flags: pairs(&[("fold_bytes", "3 MiB")]),
    };

    let config = Config::load(&sources).unwrap();

    assert_eq!(config.fold_bytes, 3 << 20);
    assert_eq!(config.connections_max, 8);
    assert_eq!(config.listen, ["localhost:1".parse().unwrap()]);
    assert_eq!(config.log_level, LogLevel::Info);
}

#[test]
fn unknown_key_is_refused_with_line_and_nearest_key() {
    let (_directory, path) = written("# a comment\n\nsegment_byte = 5\nanother = 1\n");
    let refused = load_file(&path);
    assert_eq!(
        refused,
        format!(
            "{}:3: unknown option \"segment_byte\"; did you mean \"segment_bytes\"?",
            path.display()
        )
    );
}

#[test]
fn table_is_an_unknown_key_too() {
    let (_directory, path) = written("insecure = false\n[storage]\nsegment_bytes = 5\n");
    assert!(load_file(&path).contains(":2: unknown option \"storage\""));
}

#[test]
fn wrong_value_is_refused_with_line_and_reason() {
    for (text, line, why) in [
        ("insecure = false\nfold_idle = \"ten\"\n", 2, "is not a length of time"),
        ("\n\nconnections_max = \"many\"\n", 3, "invalid type"),
        ("\nlisten = [\"127.0.0.1:1\",\n \"nowhere\"]\n", 2, "is not HOST:PORT"),
        ("listen = 7\n", 1, "an address or a list of addresses"),
        ("log_level = \"loud\"\n", 1, "unknown variant"),
        ("insecure = \n", 1, ""),
        ("insecure = true\ninsecure = true\n", 2, "duplicate"),
    ] {
        let (_directory, path) = written(text);
        let refused = load_file(&path);
        assert!(refused.starts_with(&format!("{}:{line}: ", path.display())), "{refused}");
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn misspelt_variable_and_flag_are_refused() {
    let environment = pairs(&[("POSTHOUSE_DATADIR", "/x")]);
    let refused = Config::load(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "POSTHOUSE_DATADIR: unknown option \"datadir\"; did you mean \"data_dir\"?"
    );

    let flags = pairs(&[("fold_byte", "1MiB")]);
    let refused = Config::load(&Sources { flags, ..Sources::default() }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "--set fold_byte=1MiB: unknown option \"fold_byte\"; did you mean \"fold_bytes\"?"
    );
}

#[test]
fn wrong_value_of_a_variable_names_it() {
    let environment = pairs(&[("POSTHOUSE_INSECURE", "yes")]);
    let refused = Config::load(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert_eq!(refused.to_string(), "POSTHOUSE_INSECURE: \"yes\" is neither true nor false");
}

#[test]
fn addresses_that_others_can_reach_are_refused_unless_insecure() {
    for text in [
        "0.0.0.0:7400",
        "[::]:7400",
        "192.0.2.1:7400",
        "[2001:db8::1]:7400",
        "[::ffff:192.0.2.1]:7400",
        "[::ffff:0.0.0.0]:7400",
        "[::127.0.0.1]:7400",
        "169.254.1.1:7400",
    ] {
        let mut config = listening(text);
        let refused = config.check().expect_err(text);
        assert!(
            refused.to_string().starts_with(&format!("refusing to listen on {text}: ")),
            "{refused}"
        );
        assert!(refused.to_string().contains("--insecure"));
        config.insecure = true;
        config.check().expect(text);
        assert_eq!(config.exposed().unwrap(), [text]);
    }
}

#[test]
fn loopback_and_unix_sockets_are_safe() {
    for text in [
        "127.0.0.1:7400",
        "127.255.0.9:0",
        "[::1]:7400",
        "[::ffff:127.0.0.1]:7400",
        "localhost:7400",
        "unix:/run/posthouse.sock",
    ] {
        let config = listening(text);
        config.check().expect(text);
        assert_eq!(config.listen[0].to_string(), text);
        assert_eq!(config.exposed().unwrap(), [""; 0]);
    }
}

#[test]
fn one_exposed_listener_among_safe_ones_is_found() {
    let mut config = listening("127.0.0.1:0");
    config.listen.push("0.0.0.0:0".parse().unwrap());
    assert!(
        matches!(config.check(), Err(ConfigError::Exposed { listen, .. }) if listen == "0.0.0.0:0")
    );
}

#[test]
fn host_that_means_nothing_is_refused() {
    let refused = listening("no-such-host.invalid:1").check().unwrap_err();
    assert!(matches!(refused, ConfigError::Unresolved { .. }), "{refused}");
}

#[test]
fn addresses_without_host_port_or_brackets_are_refused() {
    for (text, why) in [
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:x", "no port"),
        ("127.0.0.1:65536", "no port"),
        (":7400", "no host"),
        ("::1:7400", "brackets"),
        ("[::1:7400", "]"),
        ("unix:", "no path"),
        ("", "HOST:PORT"),
    ] {
        let refused = text.parse::<Listen>().expect_err(text);
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 10] = [
        ("segment_bytes", |config| config.segment_bytes = 512 << 10),
        ("segment_bytes", |config| config.segment_bytes = (1 << 20) + 1),
        ("message_bytes_max", |config| config.segment_bytes = MIB),
        ("message_bytes_max", |config| config.message_bytes_max = 17 * MIB),
        ("message_bytes_max", |config| config.message_bytes_max = 0),
        ("unfolded_bytes_max", |config| config.unfolded_bytes_max = 3 * 64 * MIB),
        ("connections_max", |config| config.connections_max = 0),
        ("connection_bytes_max", |config| config.connection_bytes_max = MIB),
        ("buffers_bytes_max", |config| config.buffers_bytes_max = MIB),
        ("fold_idle", |config| config.fold_idle = Duration::ZERO),
    ];
    for (key, change) in cases {
        let mut config = Config::default();
        change(&mut config);
        let refused = config.check().expect_err(key).to_string();
        assert!(refused.starts_with(&format!("{key}: ")), "{refused}");
    }
    Config { segment_bytes: MIB, message_bytes_max: 64 << 10, ..Config::default() }
        .check()
        .unwrap();
    Config { segment_bytes: 256 * MIB, message_bytes_max: 16 * MIB, ..Config::default() }
        .check()
        .unwrap();
}

#[test]
fn file_without_addresses_is_refused() {
    let (_directory, path) = written("listen = []\n");
    assert_eq!(load_file(&path), "listen: names no address");
}

#[test]
fn missing_file_is_named() {
    assert!(
        load_file(Path::new("/no/such/file.toml")).starts_with("cannot read /no/such/file.toml: ")
    );
}

#[test]
fn temporary_broker_has_a_directory_while_it_lives_and_no_listener() {
    let config = Config::temporary().unwrap();
    let clone = config.clone();
    let directory = config.data_dir.clone();
    config.check().unwrap();
    assert_eq!(config.endpoints().unwrap(), []);

    drop(config);
    assert!(directory.is_dir());
    drop(clone);
    assert!(!directory.exists());
}

#[test]
fn sizes_and_periods_are_read_as_people_write_them() {
    for (text, bytes) in [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64 MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("1GiB", 1 << 30),
        ("3 kB", 3000),
        ("7 B", 7),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }
    for text in ["", "MiB", "1.5 MiB", "1 XiB", "-1", "20000000000 GiB", "1 MiB 2"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    for (text, millis) in [
        ("0", 0),
        ("250ms", 250),
        ("30s", 30_000),
        ("5 m", 300_000),
        ("1h 30m", 5_400_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
    ] {
        assert_eq!(text.parse(), Ok(Period(Duration::from_millis(millis))));
        let shown = Period(Duration::from_millis(millis)).to_string();
        assert_eq!(shown.parse(), Ok(Period(Duration::from_millis(millis))), "{shown}");
    }
    for text in ["", "30", "s", "5m 10m", "1s 1h", "1.5s", "1y", "99999999999999999999s"] {
        assert!(text.parse::<Period>().is_err(), "{text}");
    }
}

fn listening(text: &str) -> Config {
    Config { listen: vec![text.parse().expect(text)], ..Config::default() }
}

fn pairs(texts: &[(&str, &str)]) -> Vec<(String, String)> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("posthouse.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn load_file(path: &Path) -> String {
    Config::load(&Sources { file: Some(path.to_owned()), ..Sources::default() })
        .expect_err("the file is wrong")
        .to_string()
}
