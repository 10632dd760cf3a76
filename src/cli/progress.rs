//! Progress of long work, on the standard error and only for people.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A spinner with a message; silent where the standard error is no terminal.
pub fn spinner(message: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar over a duration, in milliseconds.
pub fn timed(message: &str, total: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total.as_millis() as u64).with_style(style).with_message(message.to_owned())
}
