"""A slot of llama.cpp, called as `llama-bench` calls it: a prompt in one batch with the logits of its last token, or tokens
one at a time, without sampling, from an empty cache."""

import ctypes

import llama_cpp

import slot

job = slot.job()


@llama_cpp.llama_log_callback
def silent(level, text, user_data):
    pass


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
model_parameters = llama_cpp.llama_model_default_params()
model_parameters.n_gpu_layers = 0
model = llama_cpp.llama_model_load_from_file(job["model"].encode(), model_parameters)
assert model, f"{job['model']}: llama.cpp cannot load it"
parameters = llama_cpp.llama_context_default_params()
parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = job["tokens"]
parameters.n_threads = parameters.n_threads_batch = job["threads"]
flash = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if job["flash"] else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
parameters.flash_attn_type = flash
context = llama_cpp.llama_init_from_model(model, parameters)
assert context, "llama.cpp cannot make a context"
memory = llama_cpp.llama_get_memory(context)


def feed(tokens):
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
    assert status == 0, f"llama_decode gave {status}"
    llama_cpp.llama_synchronize(context)


def prefill(tokens):
    llama_cpp.llama_memory_clear(memory, False)
    feed(tokens)


def decode(tokens):
    llama_cpp.llama_memory_clear(memory, False)
    for token in tokens:
        feed([token])


vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))


def ran():
    return f"llama-cpp-python {llama_cpp.__version__}; {llama_cpp.llama_print_system_info().decode().strip(' |')}"


slot.run(job, vocabulary, prefill if job["work"] == "prefill" else decode, ran)
