-- From a rule's answer (`answered`) to the decisions. A prompt with a weight and no `keep` stays with that probability.
-- The floor: when fewer prompts stay than one step needs, the least solved of those that are not dropped for ever come
-- back, by the mean of their pass rate under a uniform prior; equals in an order drawn anew each epoch.
WITH drawn AS (
    SELECT * REPLACE (coalesce(for_ever, false) AS for_ever),
           coalesce(keep, uniform($seed, prompt_id || ' keep') < weight) AS stays
    FROM answered
),
ranked AS (
    SELECT
        *,
        least($prompts_per_step, count(*) OVER ()) AS needed,
        count(*) FILTER (WHERE stays) OVER () AS staying,
        row_number() OVER (
            PARTITION BY stays OR for_ever
            ORDER BY (correct + 1) / (graded + 2), uniform($seed, prompt_id || ' floor'), prompt_id
        ) AS place
    FROM drawn
),
floored AS (
    SELECT *, NOT stays AND NOT for_ever AND place <= needed - staying AS brought_back FROM ranked
)
SELECT
    prompt_id,
    stays OR brought_back AS keep,
    bucket,
    CASE
        WHEN brought_back
        THEN format('warning, floor: {} prompts would stay and a step needs {}; back as one of the least solved ({})',
                    staying, needed, reason)
        ELSE reason
    END AS reason,
    graded, correct, pass_rate, weight, brought_back
FROM floored
ORDER BY prompt_id
