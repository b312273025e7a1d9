//! Child side: one process that loads a variant, scores it or times it, reports and exits. Parent and child speak
//! JSON lines: one job on standard input, progress and one result on standard output.
