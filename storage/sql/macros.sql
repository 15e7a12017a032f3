-- Unbiased pass@k, as a product so that no binomial overflows: 1 - C(n-c, k) / C(n, k).
CREATE MACRO pass_at_k(n, c, k) AS
    CASE
        WHEN k > n OR c > n OR c < 0 OR k < 1 THEN NULL
        WHEN n - c < k THEN 1.0::DOUBLE
        ELSE 1.0 - coalesce(list_product([1.0 - k::DOUBLE / i FOR i IN range((n - c + 1)::BIGINT, (n + 1)::BIGINT)]), 1.0)
    END;
COMMENT ON MACRO pass_at_k IS
    'unbiased probability (0 to 1) that at least one of k rollouts is correct, when c of n were; null when k > n';
