/**
 * How tests with random input run. `npm test` takes the same input each time, so what is green stays green; `npm run test:random` and STRATA_RANDOM_TIMES
 * look for what nobody has seen. What fast-check prints of a failure is played again with STRATA_RANDOM_SEED and STRATA_RANDOM_PATH.
 */

const SEED = 20261122;

/** The parameters for fc.assert. `runs`: of the usual test; STRATA_RANDOM_TIMES as many of them, with a new seed. */
export function randomRuns(runs: number): { numRuns: number; seed?: number; path?: string } {
  const { STRATA_RANDOM_TIMES: times, STRATA_RANDOM_SEED: seed, STRATA_RANDOM_PATH: path } = process.env;
  const numRuns = Math.ceil(runs * Number(times ?? 1));
  if (seed !== undefined) return { numRuns, seed: Number(seed), ...(path === undefined ? {} : { path }) };
  return times === undefined ? { numRuns, seed: SEED } : { numRuns };
}
