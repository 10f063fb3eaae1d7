-- Score of every neuron by how far its activation in the donor lies from that in the target: the root mean square over
-- the response tokens of the donor's answers (methods section 1, `contrast`; safety-neuron change score, arXiv
-- 2406.14144).
--
-- transfer: statistics of each prompt's mean squared difference. The score is never negative and knows neither
-- look-alikes nor damage, so those parts are empty; its error is that of the mean square by the delta method.
SELECT
    0.0::DOUBLE AS lookalike_weight, layer, family, neuron,
    sqrt(greatest(mean, 0)) AS score,
    sqrt(greatest(mean, 0)) AS effect,
    NULL::DOUBLE AS lookalike_effect,
    NULL::DOUBLE AS damage,
    CASE WHEN mean > 0 THEN sqrt(m2 / greatest(n - 1, 1) / n) / (2 * sqrt(mean)) ELSE 0 END AS standard_error,
    NULL::DOUBLE AS sign_agreement,
    row_number() OVER (ORDER BY mean DESC, layer, family, neuron)::INTEGER AS rank
FROM transfer
ORDER BY rank
