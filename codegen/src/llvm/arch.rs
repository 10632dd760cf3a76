//! The GPU architectures that PTX can be made for.

use std::fmt;
use std::str::FromStr;

use crate::schedule::GpuLimits;

/// A version of the PTX language.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PtxVersion {
    /// The part before the point.
    pub major: u8,
    /// The part after the point.
    pub minor: u8,
}

impl fmt::Display for PtxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

macro_rules! architectures {
    ($($variant:ident $name:literal $capability:literal PTX $major:literal . $minor:literal;)*) => {
        /// An architecture from Turing on. The names that end in a letter are for that architecture (`a`) or
        /// its family (`f`) alone; code for the others also runs on every later GPU.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum Arch {
            $(#[doc = concat!("`", $name, "`, from PTX ", $major, ".", $minor, " on.")] $variant,)*
        }

        impl Arch {
            /// Every architecture, oldest first.
            pub const ALL: &'static [Arch] = &[$(Arch::$variant),*];

            /// The name, as `ptxas -arch` takes it.
            pub fn name(self) -> &'static str {
                match self { $(Arch::$variant => $name,)* }
            }

            /// The compute capability times ten: 90 for 9.0.
            pub fn capability(self) -> u32 {
                match self { $(Arch::$variant => $capability,)* }
            }

            /// The lowest version of PTX that knows the architecture. Drivers refuse PTX newer than themselves,
            /// so this is the version that is emitted.
            pub fn ptx_version(self) -> PtxVersion {
                match self { $(Arch::$variant => PtxVersion { major: $major, minor: $minor },)* }
            }
        }
    };
}

// The versions are those at which LLVM 22.1 stops refusing the pair; ptxas 13 assembles each of them.
architectures! {
    Sm75 "sm_75" 75 PTX 6 . 3;
    Sm80 "sm_80" 80 PTX 7 . 0;
    Sm86 "sm_86" 86 PTX 7 . 1;
    Sm87 "sm_87" 87 PTX 7 . 4;
    Sm88 "sm_88" 88 PTX 9 . 0;
    Sm89 "sm_89" 89 PTX 7 . 8;
    Sm90 "sm_90" 90 PTX 7 . 8;
    Sm90a "sm_90a" 90 PTX 8 . 0;
    Sm100 "sm_100" 100 PTX 8 . 6;
    Sm100a "sm_100a" 100 PTX 8 . 6;
    Sm100f "sm_100f" 100 PTX 8 . 8;
    Sm103 "sm_103" 103 PTX 8 . 8;
    Sm103a "sm_103a" 103 PTX 8 . 8;
    Sm103f "sm_103f" 103 PTX 8 . 8;
    Sm110 "sm_110" 110 PTX 9 . 0;
    Sm110a "sm_110a" 110 PTX 9 . 0;
    Sm110f "sm_110f" 110 PTX 9 . 0;
    Sm120 "sm_120" 120 PTX 8 . 7;
    Sm120a "sm_120a" 120 PTX 8 . 7;
    Sm120f "sm_120f" 120 PTX 8 . 8;
    Sm121 "sm_121" 121 PTX 8 . 8;
    Sm121a "sm_121a" 121 PTX 8 . 8;
    Sm121f "sm_121f" 121 PTX 8 . 8;
}

impl Arch {
    /// Whether code for this architecture also runs on every later GPU.
    pub fn is_portable(self) -> bool {
        self.name().ends_with(|last: char| last.is_ascii_digit())
    }

    /// The newest portable architecture whose code runs on a GPU of compute capability `major.minor`, or
    /// `None` if the GPU is older than all of them.
    pub fn for_capability(major: u32, minor: u32) -> Option<Arch> {
        let capability = major.checked_mul(10)?.checked_add(minor)?;
        let runs = |arch: &Arch| arch.is_portable() && arch.capability() <= capability;
        Arch::ALL.iter().copied().filter(runs).max_by_key(|arch| arch.capability())
    }

    /// Whether warp groups multiply matrices in shared memory (`wgmma`).
    pub fn has_warp_groups(self) -> bool {
        self == Arch::Sm90a
    }

    /// What the least GPU of the architecture has.
    pub fn limits(self) -> GpuLimits {
        GpuLimits { warp_groups: self.has_warp_groups(), ..GpuLimits::of_capability(self.capability()) }
    }

    /// The architecture whose code a GPU of compute capability `major.minor` is given that has so much: the newest
    /// portable one, unless it has what that has not. `None` if the GPU is older than all of them.
    pub fn for_gpu((major, minor): (u32, u32), limits: &GpuLimits) -> Option<Arch> {
        if limits.warp_groups { Some(Arch::Sm90a) } else { Arch::for_capability(major, minor) }
    }

    /// LLVM's feature string: the version of PTX.
    pub(super) fn features(self) -> String {
        let version = self.ptx_version();
        format!("+ptx{}{}", version.major, version.minor)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not one of an architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown GPU architecture `{given}`; known are {}", Arch::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownArch {
    /// The name.
    pub given: String,
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Arch, UnknownArch> {
        let known = Arch::ALL.iter().copied().find(|arch| arch.name() == name);
        known.ok_or_else(|| UnknownArch { given: name.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_architecture_is_answered_with_the_known_ones() {
        assert_eq!("sm_90a".parse(), Ok(Arch::Sm90a));
        let message = "sm_91".parse::<Arch>().unwrap_err().to_string();
        assert!(message.contains("`sm_91`") && message.contains("sm_75, sm_80"), "{message}");
    }

    #[test]
    fn a_gpu_gets_the_newest_portable_code_that_it_runs() {
        assert_eq!(Arch::for_capability(9, 0), Some(Arch::Sm90));
        assert_eq!(Arch::for_capability(8, 5), Some(Arch::Sm80));
        assert_eq!(Arch::for_capability(13, 0), Some(Arch::Sm121));
        assert_eq!(Arch::for_capability(7, 0), None);
    }
}
