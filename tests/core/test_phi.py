import pytest
import torch
from transformers import DynamicCache, PhiConfig
from transformers.models.phi.modeling_phi import PhiAttention

from tinygptv_core.phi import FusedAttention, PostRMSNorm, TinyPhi

WIDTH, HEADS, HEAD_WIDTH = 8, 2, 4
CONFIG = PhiConfig(
    vocab_size=16,
    hidden_size=WIDTH,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    qk_layernorm=True,
)


@pytest.fixture(scope="module")
def phi() -> TinyPhi:
    torch.manual_seed(1)
    return TinyPhi(CONFIG).eval()


def test_the_norm_divides_by_the_root_of_the_mean_square():
    norm = PostRMSNorm(2, eps=0.0)
    torch.nn.init.constant_(norm.weight, 5.0)
    # The mean of 9 and 16 is 12.5; (3, 4) * 5 / sqrt(12.5) = (3, 4) * sqrt(2).
    assert norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([3 * 2**0.5, 4 * 2**0.5])


def test_the_norm_does_not_overflow_in_float16():
    assert PostRMSNorm(2, eps=0.0)(torch.tensor([1e4, 1e4], dtype=torch.float16)).tolist() == [1.0, 1.0]


def test_the_norm_rounds_to_the_inputs_precision_before_its_weight():
    norm = PostRMSNorm(2, eps=0.0)
    torch.nn.init.constant_(norm.weight, 1.003)  # in bfloat16 it would be 1
    # 3 / sqrt(12.5) = 0.84853 and 4 / sqrt(12.5) = 1.13137, in bfloat16 0.84765625 and 1.1328125.
    found = norm(torch.tensor([3.0, 4.0], dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([1.003 * 0.84765625, 1.003 * 1.1328125], abs=1e-6)


def test_fused_rows_are_query_key_value_of_one_head_after_another(phi):
    """With its rows dealt out as [head][query, key, value][width], transformers' split attention gives the same."""
    fused, split = phi.model.layers[0].self_attn, PhiAttention(CONFIG, layer_idx=0).eval()
    split.load_state_dict({**split.state_dict(), **{k: v for k, v in fused.state_dict().items() if "query" not in k}})
    weight = fused.query_key_value.weight.view(HEADS, 3, HEAD_WIDTH, WIDTH)
    for position, linear in enumerate((split.q_proj, split.k_proj, split.v_proj)):
        linear.weight = torch.nn.Parameter(weight[:, position].reshape(WIDTH, WIDTH))
        torch.nn.init.zeros_(linear.bias)
    torch.nn.init.zeros_(fused.query_key_value.bias)
    hidden_BSD = torch.randn(2, 5, WIDTH)
    rotary = phi.model.rotary_emb(hidden_BSD, torch.arange(5)[None])
    torch.testing.assert_close(fused(hidden_BSD, rotary, None)[0], split(hidden_BSD, rotary, None)[0])


def test_eager_and_sdpa_agree(phi):
    ids_BS, mask_BS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    logits = {}
    for name in ("eager", "sdpa"):
        phi.set_attn_implementation(name)
        logits[name] = phi(input_ids=ids_BS, attention_mask=mask_BS).logits[mask_BS.bool()]
    torch.testing.assert_close(logits["eager"], logits["sdpa"])


def test_one_token_at_a_time_with_a_cache_gives_what_all_at_once_gives(phi):
    ids_BS, cache = torch.tensor([[1, 2, 3, 4, 5]]), DynamicCache(config=CONFIG)
    steps = [phi(input_ids=ids_BS[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), phi(input_ids=ids_BS).logits)


def test_new_norms_start_at_one(phi):
    layer = phi.model.layers[1]
    for norm in (layer.post_layernorm, layer.self_attn.q_layernorm, layer.self_attn.k_layernorm):
        assert (norm.weight == 1).all()


def test_the_mlp_does_not_see_what_attention_gives(phi):
    """They stand side by side: with attention's norm at zero a layer is x + mlp(norm(x))."""
    layer, hidden_BSD = phi.model.layers[0], torch.randn(1, 3, WIDTH)
    rotary = phi.model.rotary_emb(hidden_BSD, torch.arange(3)[None])
    weight = layer.post_layernorm.weight.clone()
    torch.nn.init.zeros_(layer.post_layernorm.weight)
    out_BSD = layer(hidden_BSD, position_embeddings=rotary, attention_mask=None)
    torch.testing.assert_close(out_BSD, hidden_BSD + layer.mlp(layer.input_layernorm(hidden_BSD)))
    with torch.no_grad():
        layer.post_layernorm.weight.copy_(weight)


@pytest.mark.parametrize("wrong", [{"qk_layernorm": False}, {"num_key_value_heads": 1}])
def test_another_phi_is_refused(wrong):
    config = PhiConfig(**{**CONFIG.to_diff_dict(), **wrong})
    with pytest.raises(ValueError, match="TinyGPT-V's Phi norms queries and keys, and has a key per head"):
        FusedAttention(config, layer_idx=0)
