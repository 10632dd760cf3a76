//! Calls of machine code on memory that is aligned for every element type.

/// Runs a function over all its items, in two calls of `call(buffers, begin, end)`, and returns the bytes of the
/// last buffer.
pub fn run(buffers: &[Vec<u8>], items: i64, mut call: impl FnMut(&[*mut u8], i64, i64)) -> Vec<u8> {
    let aligned = |bytes: &Vec<u8>| vec![0u64; bytes.len().div_ceil(8).max(1)];
    let mut memory: Vec<Vec<u64>> = buffers.iter().map(aligned).collect();
    for (memory, bytes) in memory.iter_mut().zip(buffers) {
        for (word, chunk) in memory.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(padded);
        }
    }
    let pointers: Vec<*mut u8> = memory.iter_mut().map(|m| m.as_mut_ptr().cast()).collect();
    call(&pointers, 0, items / 3);
    call(&pointers, items / 3, items);
    let output: Vec<u8> = memory.pop().expect("the output").into_iter().flat_map(u64::to_ne_bytes).collect();
    output[..buffers[buffers.len() - 1].len()].to_vec()
}
