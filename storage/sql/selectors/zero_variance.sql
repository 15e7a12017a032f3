-- The rule: prompts whose last visit was all correct or all wrong have no advantage and are dropped; each comes back for
-- a test after it sat out $readmit_after epochs.
-- Source: the filter of DAPO's dynamic sampling (arXiv 2503.14476), here from the history instead of fresh rollouts.
-- Ours: deciding by the last visit, the re-admission, the floor of one step's prompts.
SELECT
    prompt_id,
    bucket NOT IN ('easy', 'hard') OR age >= $readmit_after AS keep,
    bucket,
    shown(bucket, graded, correct) || CASE
        WHEN bucket NOT IN ('easy', 'hard') THEN ': stays'
        WHEN age >= $readmit_after THEN format(' {}: back for a test', ago(age))
        ELSE format(' {}: no variance, sits out {}', ago(age), epochs($readmit_after))
    END AS reason,
    graded, correct, pass_rate
FROM standing
