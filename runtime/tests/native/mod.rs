//! The recurrence of `support` on the CPU, with Rust closures for machine code.

use std::sync::Arc;

use fuse_ir::ops::Direction;
use fuse_runtime::{Code, Device, DeviceOptions, Executable, HostModule};

use crate::support::{functions, recurrence};

/// Machine code of a test: gets the buffers, the runtime integers and the range of work items.
pub type Native = Box<dyn Fn(&[*mut u8], &[i64], i64, i64) + Send + Sync>;

struct Closures(Vec<Native>);

// SAFETY: the closures below access exactly the elements that their kernels do.
unsafe impl HostModule for Closures {
    fn functions(&self) -> usize {
        self.0.len()
    }

    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        self.0[index](buffers, symbols, begin, end);
    }
}

pub fn f32_at(buffer: *mut u8, position: i64) -> f32 {
    // SAFETY: as the caller's kernel: the position is within the buffer.
    unsafe { buffer.cast::<f32>().offset(position as isize).read() }
}

pub fn set_f32(buffer: *mut u8, position: i64, value: f32) {
    // SAFETY: as the caller's kernel: the position is within the buffer, and no other item writes it.
    unsafe { buffer.cast::<f32>().offset(position as isize).write(value) }
}

pub fn natives() -> Vec<Native> {
    vec![
        Box::new(|b, _, begin, end| (begin..end).for_each(|i| set_f32(b[0], i, 0.0))),
        Box::new(|b, symbols, begin, end| {
            for i in begin..end {
                let at = symbols[1] * symbols[0] + i;
                let h = f32_at(b[1], i) * f32_at(b[2], i) + f32_at(b[0], at);
                set_f32(b[3], i, h);
                set_f32(b[4], at, h);
            }
        }),
        Box::new(|b, _, begin, end| (begin..end).for_each(|i| set_f32(b[1], i, f32_at(b[0], i)))),
    ]
}

pub fn executable_with(natives: Vec<Native>, direction: Direction, options: &DeviceOptions) -> Executable {
    let (graph, kernels) = recurrence(direction);
    let device = Device::cpu(options).unwrap();
    let code = Code::Host(Arc::new(Closures(natives)));
    Executable::new(&graph, kernels, &functions(), code, &device).unwrap()
}

pub fn executable(threads: usize) -> Executable {
    executable_with(natives(), Direction::Forward, &threads_only(threads))
}

pub fn threads_only(threads: usize) -> DeviceOptions {
    DeviceOptions { threads: Some(threads), ..DeviceOptions::default() }
}
