"""VQ-BeT's trunk and losses: token layouts, masks, goals, and that it learns."""

import dataclasses

import pytest
import torch
from vqbet_ros.policy.heads import focal_loss
from vqbet_ros.policy.tokenizer import ActionTokenizer
from vqbet_ros.policy.vqbet import Steps, VQBeT

HISTORY, GOALS, FEATURES, STATE, CHUNK, CHANNELS, BATCH = 4, 2, 5, 3, 3, 2, 6
LAYOUTS = [
    # cameras, state, query token, goal steps, goal state
    (0, True, False, 0, False),
    (0, True, True, GOALS, True),
    (1, False, False, GOALS, False),
    (1, True, True, 0, False),
    (1, True, False, GOALS, True),
    (2, True, True, GOALS, False),
    (2, True, True, GOALS, True),
    (2, False, True, GOALS, False),
]
layouts = pytest.mark.parametrize('layout', LAYOUTS, ids=str)


def build(layout, **settings):
    """Return a policy whose tokenizer is filled and whose weights are all far from zero."""
    cameras, state, query, goal_steps, goal_state = layout
    torch.manual_seed(0)
    tokenizer = ActionTokenizer(
        chunk=CHUNK, action_dim=CHANNELS, codebook_size=4, latent=6, hidden=8
    )
    chunks = torch.randn(64, CHUNK, CHANNELS)
    tokenizer.loss(chunks, torch.ones(64, CHUNK, dtype=torch.bool))
    model = VQBeT(
        tokenizer=tokenizer,
        cameras=cameras,
        feature_dim=FEATURES,
        state_dim=STATE if state else 0,
        history=HISTORY,
        goal_steps=goal_steps,
        goal_state=goal_state,
        query_token=query,
        **{'layers': 2, 'heads': 2, 'width': 16, 'dropout': 0.0, **settings},
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def steps(layout, count, seed=1, present=None, batch=BATCH):
    cameras, state = layout[:2]
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, count, cameras, FEATURES, generator=generator)
    states = torch.randn(batch, count, STATE, generator=generator)
    return Steps(features if cameras else None, states if state else None, present)


def goal_of(layout, **settings):
    return steps(layout, GOALS, seed=2, **settings) if layout[3] else None


def part(given, rows=slice(None), at=slice(None)):
    """Cut rows and steps out of Steps."""
    every = (given.features, given.state, given.present)
    features, state, present = (None if t is None else t[rows][:, at] for t in every)
    return Steps(features, state, present)


def targets(seed=3):
    actions = torch.randn(
        BATCH, HISTORY, CHUNK, CHANNELS, generator=torch.Generator().manual_seed(seed)
    )
    return actions, torch.ones(BATCH, HISTORY, CHUNK, dtype=torch.bool)


@layouts
def test_tokens_and_shapes(layout):
    cameras, state, query, goal_steps, goal_state = layout
    model = build(layout)
    assert model.position.shape == (HISTORY, cameras + state + query, 16)
    assert model.goal_position.shape == (goal_steps, cameras + goal_state, 16)
    seen = []
    model.trunk.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert model(steps(layout, HISTORY)).shape == (BATCH, HISTORY, 16)
    assert model(steps(layout, 2), goal_of(layout)).shape == (BATCH, 2, 16)
    each = cameras + state + query
    goals = goal_steps * (cameras + goal_state)
    assert [shape[1] for shape in seen] == [HISTORY * each, goals + 2 * each]
    decoded = model.decode(model(steps(layout, 1))[:, -1])
    assert decoded.actions.shape == (BATCH, CHUNK, CHANNELS)
    assert decoded.codes.shape == (BATCH, 2)
    torch.testing.assert_close(decoded.probabilities.sum(-1), torch.ones(BATCH, 2))


@layouts
def test_masked_history_equals_a_shorter_one(layout):
    # So positions are counted from the newest step.
    model = build(layout)
    observed = steps(layout, HISTORY)
    for absent in range(1, HISTORY):
        present = (torch.arange(HISTORY) >= absent).expand(BATCH, -1)
        masked = model(dataclasses.replace(observed, present=present), goal_of(layout))
        shorter = model(part(observed, at=slice(absent, None)), goal_of(layout))
        torch.testing.assert_close(masked[:, absent:], shorter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('layout', [layout for layout in LAYOUTS if layout[3]], ids=str)
def test_a_dropped_goal_equals_no_goal(layout):
    model = build(layout)
    dropped = torch.tensor([True, False, False, True, True, False])
    present = ~dropped[:, None].expand(BATCH, GOALS)
    mixed = model(steps(layout, HISTORY), goal_of(layout, present=present))
    without = model(steps(layout, HISTORY))
    goal_given = model(steps(layout, HISTORY), goal_of(layout))
    torch.testing.assert_close(mixed[dropped], without[dropped], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[~dropped], goal_given[~dropped], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, goal_given, atol=1e-3)


def test_goal_and_history_masks_join():
    layout = LAYOUTS[-2]
    model = build(layout)
    present = (torch.arange(HISTORY) >= 2).expand(BATCH, -1)
    observed = steps(layout, HISTORY, present=present)
    nothing = torch.zeros(BATCH, GOALS, dtype=torch.bool)
    masked = model(observed, goal_of(layout, present=nothing))[:, 2:]
    cut = part(steps(layout, HISTORY), at=slice(2, None))
    torch.testing.assert_close(masked, model(cut), rtol=1e-4, atol=1e-5)


@layouts
def test_future_steps_never_change_past_outputs(layout):
    model = build(layout)
    before = model(steps(layout, HISTORY), goal_of(layout))
    for first in range(1, HISTORY):
        one, other = steps(layout, HISTORY), steps(layout, HISTORY, seed=8)
        mixed = Steps(
            *(
                None if a is None else torch.cat([a[:, :first], b[:, first:]], dim=1)
                for a, b in ((one.features, other.features), (one.state, other.state))
            )
        )
        after = model(mixed, goal_of(layout))
        torch.testing.assert_close(after[:, :first], before[:, :first], rtol=1e-4, atol=1e-5)


@layouts
def test_one_pass_equals_a_loop_over_steps_and_rows(layout):
    model = build(layout)
    observed, goal = steps(layout, HISTORY), goal_of(layout)
    present = torch.ones(BATCH, HISTORY, dtype=torch.bool)
    present[1, :2] = False
    together = model(dataclasses.replace(observed, present=present), goal)
    for row in range(BATCH):
        rows = slice(row, row + 1)
        own_goal = None if goal is None else part(goal, rows)
        first = 2 if row == 1 else 0
        for step in range(first, HISTORY):
            # Token by token, by hand, with the positions that a window's steps have.
            tokens = []
            if own_goal is not None:
                for g in range(GOALS):
                    tokens += tokens_of(
                        model, own_goal, g, model.goal_position[g], layout[4], False
                    )
            for s in range(first, step + 1):
                tokens += tokens_of(
                    model, part(observed, rows), s, model.position[s], True, layout[2]
                )
            alone = model.trunk(torch.stack(tokens)[None])[0, -1]
            torch.testing.assert_close(together[row, step], alone, rtol=1e-4, atol=1e-5)


def tokens_of(model, given, step, positions, state, query):
    parts = []
    if given.features is not None:
        parts += [model.feature_token(feature) for feature in given.features[0, step]]
    if given.state is not None and state:
        parts.append(model.state_token(given.state[0, step]))
    if query:
        parts.append(model.query)
    return [token + place for token, place in zip(parts, positions, strict=True)]


@layouts
def test_a_batch_of_one_equals_the_row_of_a_batch(layout):
    model = build(layout)
    hidden = model(steps(layout, HISTORY), goal_of(layout))[:, -1]
    goal = goal_of(layout)
    alone = model(
        part(steps(layout, HISTORY), slice(2, 3)),
        None if goal is None else part(goal, slice(2, 3)),
    )[:, -1]
    batch, one = model.decode(hidden), model.decode(alone)
    torch.testing.assert_close(batch.actions[2:3], one.actions, rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.codes[2:3], one.codes)


@pytest.mark.parametrize('offset_codes', ['sampled', 'true'])
@pytest.mark.parametrize('mode', ['joint', 'sequential'])
def test_the_loss_is_what_its_parts_say(mode, offset_codes):
    layout = LAYOUTS[1]
    model = build(layout, code_mode=mode, head_hidden=8)
    actions, mask = targets()
    mask[1, 2, 1:] = False
    mask[4, :2] = False
    observed = steps(layout, HISTORY)
    torch.manual_seed(5)
    loss, metrics = model.loss(observed, None, actions, mask, offset_codes=offset_codes)
    hidden = model(observed).flatten(0, 1)
    true = model.tokenizer.encode(actions).flatten(0, 1)
    logits = model.code_head(hidden, true)
    whole = mask.all(-1).flatten()
    focal = focal_loss(logits, true, 2.0)[whole].mean(0)
    code_loss = 5.0 * focal[0] + 0.5 * focal[1]
    used = true
    if offset_codes == 'sampled':
        torch.manual_seed(5)
        uniform = torch.rand(logits.shape).clamp(1e-20, 1.0)
        noise = -(-uniform.log()).log()
        used, _ = model.code_head.choose(hidden, 1.0, noise)
    chunk = model.tokenizer.decode(used) + model.offset_head(hidden, used)
    offset_loss = (chunk - actions.flatten(0, 1)).abs()[mask.flatten(0, 1)].mean()
    torch.testing.assert_close(metrics['code_loss'], code_loss.detach())
    torch.testing.assert_close(metrics['offset_loss'], offset_loss.detach())
    torch.testing.assert_close(loss, code_loss + 100.0 * offset_loss)
    hits = (logits.argmax(-1) == true)[whole].float().mean(0)
    assert metrics['code_accuracy_1'] == pytest.approx(float(hits[0]))
    assert metrics['code_accuracy_2'] == pytest.approx(float(hits[1]))


def test_padding_is_masked_out_of_every_loss():
    layout = LAYOUTS[4]
    model = build(layout, code_mode='sequential')
    actions, mask = targets()
    mask[0, 3, 1:] = False
    mask[2, :2] = False  # history before the episode began
    mask[5] = False
    results = []
    for filling in (0.0, 7.0):
        filled = torch.where(mask[..., None], actions, filling)
        torch.manual_seed(0)
        model.zero_grad()
        loss, metrics = model.loss(steps(layout, HISTORY), goal_of(layout), filled, mask)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([loss.detach(), *metrics.values(), *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_nothing_but_padding_gives_zero():
    layout = LAYOUTS[0]
    actions, mask = targets()
    loss, _ = build(layout).loss(steps(layout, HISTORY), None, actions, torch.zeros_like(mask))
    assert loss == 0


@pytest.mark.parametrize('offset_codes', ['sampled', 'true'])
def test_the_tokenizer_gets_no_gradient(offset_codes):
    layout = LAYOUTS[6]
    model = build(layout).train()
    assert not model.tokenizer.training
    before = {key: value.clone() for key, value in model.tokenizer.state_dict().items()}
    loss, _ = model.loss(
        steps(layout, HISTORY), goal_of(layout), *targets(), offset_codes=offset_codes
    )
    loss.backward()
    assert all(p.grad is None for p in model.tokenizer.parameters())
    others = [p for n, p in model.named_parameters() if not n.startswith('tokenizer.')]
    assert all(p.grad is not None and p.grad.any() for p in others)
    for key, value in model.tokenizer.state_dict().items():
        assert torch.equal(value, before[key])


@layouts
def test_every_position_trains(layout):
    model = build(layout)
    actions, everything = targets()
    for step in range(HISTORY):
        # Only this step counts: the gradient reaches it and what came before, nothing after.
        mask = torch.zeros_like(everything)
        mask[:, step] = True
        model.zero_grad()
        loss, _ = model.loss(steps(layout, HISTORY), goal_of(layout), actions, mask)
        loss.backward()
        reached = model.position.grad.abs().sum((1, 2)) > 0
        assert reached.tolist() == [s <= step for s in range(HISTORY)]
        if layout[3]:
            assert model.goal_position.grad.abs().sum((1, 2)).all()


def test_too_many_steps_are_refused():
    layout = LAYOUTS[4]
    model = build(layout)
    with pytest.raises(ValueError, match=f'got {HISTORY + 1} steps'):
        model(steps(layout, HISTORY + 1))
    with pytest.raises(ValueError, match='got 3 steps'):
        model(steps(layout, HISTORY), steps(layout, GOALS + 1))
    with pytest.raises(ValueError, match='built for 0'):
        build(LAYOUTS[3])(steps(LAYOUTS[3], 1), steps(LAYOUTS[3], 1))


def test_a_policy_that_sees_nothing_is_refused():
    with pytest.raises(ValueError, match='at least one camera or a state'):
        build((0, False, True, 0, False))
    with pytest.raises(ValueError, match='goal_state'):
        build((0, True, True, GOALS, False))


def test_learns_a_task_where_the_goal_decides():
    """Two ways to go from the same place: the goal says which, and without one both are likely."""
    torch.manual_seed(0)
    ways = torch.tensor([[[1.0, 0.5]], [[-1.0, -0.5]]])  # (2, W=1, A)
    tokenizer = ActionTokenizer(chunk=1, action_dim=2, codebook_size=4, latent=4, hidden=16)
    model = VQBeT(
        tokenizer=tokenizer,
        cameras=0,
        feature_dim=1,
        state_dim=1,
        history=2,
        goal_steps=1,
        goal_state=True,
        query_token=False,
        layers=1,
        heads=2,
        width=16,
        dropout=0.0,
    )
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    tokenizer.train()
    for _ in range(60):
        loss, _ = tokenizer.loss(ways.repeat(16, 1, 1), torch.ones(32, 1, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.train()
    parameters = [p for n, p in model.named_parameters() if not n.startswith('tokenizer.')]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    mask = torch.ones(32, 2, 1, dtype=torch.bool)
    for _ in range(200):
        way = torch.randint(2, (32,))
        goal = Steps(None, 2.0 * way[:, None, None] - 1.0, torch.rand(32, 1) < 0.5)
        actions = ways[way][:, None].expand(-1, 2, -1, -1)  # (B, h, W, A)
        loss, _ = model.loss(
            Steps(None, torch.rand(32, 2, 1)), goal, actions, mask, gamma=0.0, offset_weight=10.0
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    observed = Steps(None, torch.full((2, 2, 1), 0.5))
    with torch.no_grad():
        with_goal = model.decode(
            model(observed, Steps(None, torch.tensor([[[-1.0]], [[1.0]]])))[:, -1]
        )
        without = model.decode(model(observed)[:, -1])
        codes = tokenizer.encode(ways)
    torch.testing.assert_close(with_goal.actions, ways, rtol=0, atol=0.1)
    assert torch.equal(with_goal.codes[:, 0], codes[:, 0])
    assert codes[0, 0] != codes[1, 0]
    sure = with_goal.probabilities[[0, 1], 0, codes[:, 0]]
    assert sure.min() > 0.9
    split = without.probabilities[0, 0, codes[:, 0]]
    assert split.min() > 0.3  # each about a half
    assert split.sum() > 0.9
