-- Score e - lambda * f - mu * max(u, 0) of every neuron, for each lambda in $weights (methods section 1).
--
-- transfer, misfire, keep: statistics of the effect of swapping a neuron on the function prompts, of giving the function's
-- answer on look-alikes, and of keeping the target's answers. `keep` holds several roles, merged by Chan's formula. The
-- effects are changes of a loss in nats, positive where the loss falls, so damage is minus the effect on keeping.
WITH keep_means AS (
    SELECT layer, family, neuron, sum(n) AS n, sum(n * mean) / sum(n) AS mean
    FROM keep
    GROUP BY layer, family, neuron
),
keep_all AS (
    SELECT k.layer, k.family, k.neuron, m.n, m.mean, sum(k.m2 + k.n * (k.mean - m.mean) ** 2) AS m2
    FROM keep k JOIN keep_means m USING (layer, family, neuron)
    GROUP BY k.layer, k.family, k.neuron, m.n, m.mean
),
parts AS (
    SELECT
        t.layer, t.family, t.neuron,
        t.mean AS effect,
        f.mean AS lookalike_effect,
        greatest(-u.mean, 0) AS damage,
        t.m2 / greatest(t.n - 1, 1) / t.n AS effect_variance,
        f.m2 / greatest(f.n - 1, 1) / f.n AS lookalike_variance,
        CASE WHEN u.mean < 0 THEN u.m2 / greatest(u.n - 1, 1) / u.n ELSE 0 END AS damage_variance,
        CASE WHEN t.mean > 0 THEN t.positive WHEN t.mean < 0 THEN 1 - t.positive ELSE 0 END AS sign_agreement
    FROM transfer t
    JOIN misfire f USING (layer, family, neuron)
    JOIN keep_all u USING (layer, family, neuron)
),
scored AS (
    SELECT
        w.weight AS lookalike_weight, layer, family, neuron,
        effect - w.weight * lookalike_effect - $damage_weight * damage AS score,
        effect, lookalike_effect, damage,
        sqrt(effect_variance + w.weight ** 2 * lookalike_variance + $damage_weight ** 2 * damage_variance)
            AS standard_error,
        sign_agreement
    FROM parts CROSS JOIN (SELECT unnest($weights) AS weight) w
)
SELECT
    lookalike_weight, layer, family, neuron, score, effect, lookalike_effect, damage, standard_error, sign_agreement,
    row_number() OVER (PARTITION BY lookalike_weight ORDER BY score DESC, layer, family, neuron)::INTEGER AS rank
FROM scored
ORDER BY lookalike_weight, rank
