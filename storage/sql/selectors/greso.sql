-- The rule: a prompt whose last n visits were all zero-variance on the same side (all correct, or all wrong) is sampled
-- with probability p^n, at least 0.01; every other prompt is. Each side has its own p: it begins at $explore, and after
-- each epoch it falls by $explore_step when that side's share of the graded prompts reached its target ($target_easy,
-- $target_hard), and rises by as much when not; always within 0.05 and 0.95.
-- Source: GRESO (arXiv 2506.02177), with the bounds, the 0.01 and the targets of its code.
-- Ours: per epoch, where GRESO adjusts p and draws at each step (so our $explore_step is larger than its 0.01); accuracy
-- decides; p also learns from the first epoch; the floor of one step's prompts.
WITH graded AS (
    SELECT prompt_id, age, correct = graded AS easy, correct = 0 AS hard FROM visits WHERE graded > 0
),
shares AS (
    SELECT age, count(*) FILTER (WHERE easy) / count(*) AS easy, count(*) FILTER (WHERE hard) / count(*) AS hard
    FROM graded
    GROUP BY age
),
explored AS (
    SELECT
        list_reduce(
            list_prepend($explore::DOUBLE, coalesce(list(
                CASE WHEN easy >= $target_easy THEN -$explore_step ELSE $explore_step END::DOUBLE ORDER BY age DESC), [])),
            lambda p, change: greatest(0.05::DOUBLE, least(0.95::DOUBLE, p + change))
        ) AS easy,
        list_reduce(
            list_prepend($explore::DOUBLE, coalesce(list(
                CASE WHEN hard >= $target_hard THEN -$explore_step ELSE $explore_step END::DOUBLE ORDER BY age DESC), [])),
            lambda p, change: greatest(0.05::DOUBLE, least(0.95::DOUBLE, p + change))
        ) AS hard
    FROM shares
),
broken AS (  -- the newest visit that is not of each kind
    SELECT prompt_id, min(age) FILTER (WHERE NOT easy) AS easy, min(age) FILTER (WHERE NOT hard) AS hard
    FROM graded
    GROUP BY prompt_id
),
runs AS (
    SELECT
        g.prompt_id,
        count(*) FILTER (WHERE b.easy IS NULL OR g.age < b.easy) AS easy,
        count(*) FILTER (WHERE b.hard IS NULL OR g.age < b.hard) AS hard
    FROM graded AS g
    JOIN broken AS b USING (prompt_id)
    GROUP BY g.prompt_id
),
judged AS (
    SELECT
        s.*,
        coalesce(CASE s.bucket WHEN 'easy' THEN r.easy WHEN 'hard' THEN r.hard END, 0) AS run,
        CASE s.bucket WHEN 'easy' THEN e.easy WHEN 'hard' THEN e.hard END AS p
    FROM standing AS s
    LEFT JOIN runs AS r USING (prompt_id)
    CROSS JOIN explored AS e
)
SELECT
    prompt_id,
    CASE WHEN run = 0 THEN 1 ELSE greatest(power(p, run), 0.01) END AS weight,
    bucket,
    CASE
        WHEN run = 0 THEN shown(bucket, graded, correct) || ': stays'
        ELSE format('{}, {} times in a row: sampled with probability {:.3f}',
                    shown(bucket, graded, correct), run, greatest(power(p, run), 0.01))
    END AS reason,
    graded, correct, pass_rate
FROM judged
