-- What every selector may use beside the tables that storage/selectors.py prepares (docs/selectors.md).

-- Random numbers from a key alone: the same whatever the version of DuckDB, the threads and the order of rows.
CREATE MACRO uniform(seed, key) AS
    ('0x' || substr(md5(concat(seed, ' ', key)), 1, 13))::BIGINT / 4503599627370496::DOUBLE;

-- 40 bits of an MD5 from digit `place` on, as a number inside (0, 1).
CREATE MACRO hex_uniform(digest, place) AS (('0x' || substr(digest, place, 10))::BIGINT + 0.5::DOUBLE) / 1099511627776::DOUBLE;
CREATE MACRO hex_normal(digest) AS
    sqrt(-2 * ln(hex_uniform(digest, 1))) * cos(2 * pi() * hex_uniform(digest, 11));

-- Marsaglia and Tsang (2000): of d = shape - 1/3 and a digest, a Gamma(shape) variate, or null when it is rejected.
CREATE MACRO gamma_cube(d, normal) AS power(1 + normal / sqrt(9 * d), 3);
CREATE MACRO gamma_try(d, digest) AS
    CASE
        WHEN 1 + hex_normal(digest) / sqrt(9 * d) > 0
            AND ln(hex_uniform(digest, 21)) < power(hex_normal(digest), 2) / 2 + d
                - d * gamma_cube(d, hex_normal(digest)) + d * ln(gamma_cube(d, hex_normal(digest)))
        THEN d * gamma_cube(d, hex_normal(digest))
    END;
-- Eight tries, each rejected at most one time in twenty, all of them in fewer than one draw of 10^10. The first stands
-- apart, since most draws need no other.
CREATE MACRO gamma_draw(shape, seed, key) AS
    coalesce(
        gamma_try(shape - 1 / 3::DOUBLE, md5(concat(seed, ' ', key, ' 0'))),
        list_filter(
            [gamma_try(shape - 1 / 3::DOUBLE, md5(concat(seed, ' ', key, ' ', try))) FOR try IN range(1, 8)],
            lambda draw: draw IS NOT NULL
        )[1],
        shape
    );
-- A draw from Beta(a, b), for a and b of 1 or more.
CREATE MACRO beta_draw(a, b, seed, key) AS
    1 / (1 + gamma_draw(b, seed, key || ' b') / gamma_draw(a, seed, key || ' a'));

-- One row per candidate: what its last visit showed, and how many epochs ago that was (0: the epoch just finished).
CREATE VIEW standing AS
SELECT
    c.prompt_id, c.domain, c.difficulty, c.sampled,
    coalesce(v.visits, 0) AS visits,
    v.age,
    coalesce(v.last.rollouts, 0) AS rollouts,
    coalesce(v.last.graded, 0) AS graded,
    coalesce(v.last.correct, 0) AS correct,
    v.last.correct / nullif(v.last.graded, 0) AS pass_rate,
    CASE
        WHEN v.prompt_id IS NULL THEN 'unvisited'
        WHEN v.last.graded = 0 THEN 'ungraded'
        WHEN v.last.correct = v.last.graded THEN 'easy'
        WHEN v.last.correct = 0 THEN 'hard'
        ELSE 'mixed'
    END AS bucket
FROM candidates AS c
LEFT JOIN (
    SELECT prompt_id, count(*) AS visits, min(age) AS age,
           arg_min({rollouts: rollouts, graded: graded, correct: correct}, age) AS last
    FROM visits
    GROUP BY prompt_id
) AS v USING (prompt_id);

-- The figures in words, for the reasons.
CREATE MACRO shown(bucket, graded, correct) AS
    CASE bucket
        WHEN 'unvisited' THEN 'not visited yet'
        WHEN 'ungraded' THEN 'not graded'
        WHEN 'easy' THEN format('all {} correct', graded)
        WHEN 'hard' THEN format('none of {} correct', graded)
        ELSE format('{} of {} correct', correct, graded)
    END;
CREATE MACRO epochs(n) AS CASE n WHEN 1 THEN 'one epoch' ELSE format('{} epochs', n) END;
CREATE MACRO ago(age) AS CASE age WHEN 0 THEN 'in this epoch' ELSE epochs(age) || ' ago' END;
