-- Macros that need no view; comments.sql says what each gives.

-- 1 - C(n-c, k) / C(n, k) as a product of min(c, k) factors: no binomial overflows, and rounding stays below 1e-12.
CREATE MACRO pass_at_k(n, c, k) AS
    CASE
        WHEN n IS NULL OR c IS NULL OR k IS NULL OR k > n OR c > n OR c < 0 OR k < 1 THEN NULL
        WHEN c = 0 THEN 0.0::DOUBLE
        WHEN n - c < k THEN 1.0::DOUBLE
        ELSE 1.0::DOUBLE - list_product([
            (i - greatest(c, k))::DOUBLE / i FOR i IN range((n - least(c, k) + 1)::BIGINT, (n + 1)::BIGINT)
        ])
    END;

CREATE MACRO mentions(text, words) AS
    len(regexp_extract_all(
        text, '(?i)\b(?:' || array_to_string([regexp_escape(word) FOR word IN words], '|') || ')\b'
    ));
