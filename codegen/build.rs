//! Links LLVM: the parts of it that are used into optimised builds, all of it as one shared library into others.
//!
//! A process that loads the shared library has some 25 MiB more in memory, and starts later: its static constructors are
//! spread over all of it. Tests and examples share it nonetheless, each of which would grow by 60 MB.
//! `FUSE_LINK_LLVM=shared` or `static` decides otherwise.

use std::path::PathBuf;
use std::process::Command;

/// What the emitters use: their targets, the pass pipelines by name, and the engine that loads host code.
const COMPONENTS: [&str; 5] = ["x86", "aarch64", "nvptx", "passes", "mcjit"];
/// System libraries that only other components use.
const OTHERS: [&str; 1] = ["xml2"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LLVM_SYS_221_PREFIX");
    println!("cargo:rerun-if-env-changed=FUSE_LINK_LLVM");
    if std::env::var_os("CARGO_FEATURE_LLVM").is_none() {
        return;
    }
    let config = LlvmConfig::find();
    for directory in config.ask(&["--libdir"]).expect("llvm-config knows where LLVM's libraries are") {
        println!("cargo:rustc-link-search=native={directory}");
    }
    let statically = ["--link-static", "--libs"].iter().chain(&COMPONENTS).copied().collect::<Vec<_>>();
    let parts = config.ask(&statically).map(names);
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    match (std::env::var("FUSE_LINK_LLVM").as_deref(), parts) {
        (Ok("static"), None) => panic!("this LLVM has no static libraries"),
        (Ok("static"), Some(parts)) => link_parts(&config, parts),
        (Ok("shared"), _) | (Err(_), None) => link_shared(&config),
        (Err(_), Some(parts)) if optimised => link_parts(&config, parts),
        (Err(_), Some(_)) => link_shared(&config),
        (Ok(other), _) => panic!("FUSE_LINK_LLVM is {other:?}; it may be shared or static"),
    }
}

fn link_shared(config: &LlvmConfig) {
    let libraries = config.ask(&["--link-shared", "--libs"]).or_else(|| config.ask(&["--libs"]));
    for name in names(libraries.expect("this LLVM has libraries")) {
        println!("cargo:rustc-link-lib={name}");
    }
}

fn link_parts(config: &LlvmConfig, parts: Vec<String>) {
    for name in parts {
        // Not copied into this crate's own library, which would grow by all of them.
        println!("cargo:rustc-link-lib=static:-bundle={name}");
    }
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let system = names(config.ask(&["--link-static", "--system-libs"]).unwrap_or_default());
    for name in system.into_iter().filter(|name| !OTHERS.contains(&name.as_str())) {
        if linux && name == "zstd" {
            // By the name that Debian's LLVM depends on; that for linkers is in a package of its own.
            println!("cargo:rustc-link-lib=dylib:+verbatim=libzstd.so.1");
        } else {
            println!("cargo:rustc-link-lib=dylib={name}");
        }
    }
    println!("cargo:rustc-link-lib=dylib={}", if linux { "stdc++" } else { "c++" });
}

/// The program that knows where LLVM is.
struct LlvmConfig(PathBuf);

impl LlvmConfig {
    fn find() -> LlvmConfig {
        let prefix = std::env::var_os("LLVM_SYS_221_PREFIX").map(|p| PathBuf::from(p).join("bin"));
        let prefix = prefix.unwrap_or_default();
        let known =
            ["llvm-config-22", "llvm-config22", "llvm-config"].map(|name| LlvmConfig(prefix.join(name)));
        let works =
            |c: &LlvmConfig| c.ask(&["--version"]).is_some_and(|v| v.iter().any(|v| v.starts_with("22.")));
        let found = known.into_iter().find(works);
        found.unwrap_or_else(|| panic!("no LLVM 22 in {prefix:?}; scripts/setup-llvm.sh installs it"))
    }

    /// The words of its answer; `None` where it has none.
    fn ask(&self, arguments: &[&str]) -> Option<Vec<String>> {
        let output = Command::new(&self.0).args(arguments).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }
}

/// The names in `-lNAME` options.
fn names(options: Vec<String>) -> Vec<String> {
    options.into_iter().filter_map(|o| o.strip_prefix("-l").map(str::to_owned)).collect()
}
