-- The rule: each prompt's pass rate has a Beta posterior, Beta(1 + c, 1 + w), where c and w are its correct and wrong
-- rollouts, those of n epochs ago counted $decay^n times. One draw from each posterior; the $keep_share of all prompts
-- whose draws are nearest $target_pass_rate stay.
-- Source: MoPPS (arXiv 2507.04632): posterior, decay, Thompson draws, target.
-- Ours: one draw an epoch where MoPPS draws at each step among that step's candidates; the decay goes by epochs, visited
-- or not, so that an unvisited prompt grows uncertain and comes back; the floor of one step's prompts.
WITH evidence AS (
    SELECT
        prompt_id,
        sum(correct * power($decay::DOUBLE, age) ORDER BY age) AS correct,
        sum((graded - correct) * power($decay::DOUBLE, age) ORDER BY age) AS wrong
    FROM visits
    GROUP BY prompt_id
),
posterior AS (
    SELECT s.*, 1 + coalesce(e.correct, 0) AS a, 1 + coalesce(e.wrong, 0) AS b
    FROM standing AS s
    LEFT JOIN evidence AS e USING (prompt_id)
),
drawn AS (
    SELECT *, beta_draw(a, b, $seed, prompt_id || ' pass rate') AS draw FROM posterior
),
ranked AS (
    SELECT
        *,
        row_number() OVER (ORDER BY abs(draw - $target_pass_rate), prompt_id) AS rank,
        ceil($keep_share * count(*) OVER ())::BIGINT AS places
    FROM drawn
)
SELECT
    prompt_id,
    rank <= places AS keep,
    bucket,
    format('{}: Beta({:.2f}, {:.2f}) drew {:.3f}, number {} of {} by nearness to {}',
           shown(bucket, graded, correct), a, b, draw, rank, places, $target_pass_rate::DOUBLE) AS reason,
    graded, correct, pass_rate
FROM ranked
