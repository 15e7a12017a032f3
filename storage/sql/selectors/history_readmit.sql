-- The rule: as `history`, but a dropped prompt comes back for a test. It sits out $readmit_after epochs when its solved
-- state rests on $sure_rollouts graded rollouts or more, and proportionally fewer (at least one) when on less. Solved
-- again, it sits out longer, up to $readmit_after; not solved, it stays.
-- Source: SRPO (arXiv 2504.14286) for what is dropped.
-- Ours: the re-admission, and the floor of one step's prompts. With 8 rollouts a prompt of pass rate 0.9 is all correct
-- 43 % of the time, with 32 only 3 %: what was dropped on 8 is asked again soon.
WITH wrong AS (
    SELECT prompt_id, min(age) AS age FROM visits WHERE correct < graded GROUP BY prompt_id
),
solved AS (  -- the graded rollouts since the last wrong one's visit
    SELECT v.prompt_id, sum(v.graded)::BIGINT AS evidence
    FROM visits AS v
    LEFT JOIN wrong AS w USING (prompt_id)
    WHERE w.age IS NULL OR v.age < w.age
    GROUP BY v.prompt_id
),
judged AS (
    SELECT
        s.*,
        e.evidence,
        greatest(1, ceil($readmit_after * least(1, e.evidence / $sure_rollouts)))::BIGINT AS sits_out
    FROM standing AS s
    LEFT JOIN solved AS e USING (prompt_id)
)
SELECT
    prompt_id,
    bucket <> 'easy' OR age >= sits_out AS keep,
    bucket,
    CASE
        WHEN bucket <> 'easy' THEN shown(bucket, graded, correct) || ': stays'
        WHEN age >= sits_out THEN format('all {} correct {}: back for a test', evidence, ago(age))
        ELSE format('all {} correct {}: sits out {}', evidence, ago(age), epochs(sits_out))
    END AS reason,
    graded, correct, pass_rate
FROM judged
