//! Progress of long work: a spinner on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

pub(crate) struct Steps {
    bar: Option<ProgressBar>,
    current: Option<(String, Instant)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Steps { bar, current: None }
    }

    /// Finishes the current step and starts the next one.
    pub(crate) fn start(&mut self, text: impl Into<String>) {
        self.finish();
        let text = text.into();
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
            bar.set_prefix(text.clone());
            bar.set_message("");
        }
        self.current = Some((text, Instant::now()));
    }

    /// Shows a detail of the current step.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_string()),
            None => eprintln!("  {text}"),
        }
    }

    /// Prints the current step with its duration.
    pub(crate) fn finish(&mut self) {
        let Some((text, since)) = self.current.take() else { return };
        let line = format!("{text}: {:.1} s", since.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Default for Steps {
    fn default() -> Self {
        Steps::new()
    }
}

impl Drop for Steps {
    /// Removes the spinner; a step that failed is not printed as finished.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
