//! Real database servers for tests: installed from packages, started, stopped and killed by the tests.
