#![cfg_attr(fuzzing, no_main)]

linkerd_fuzz::target!(transport_header);
