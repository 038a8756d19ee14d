/**
 * What GET /metrics answers, in the Prometheus text format 0.0.4: requests by method and status, their durations as
 * a histogram, and gauges that the caller supplies. Bounded: labels are names of methods and statuses only.
 */
import type { Method } from './contract.ts';

const BUCKETS_SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120];

export interface Metrics {
  observe(method: Method, status: number, seconds: number): void;
  /** The exposition text; gauges by name with their help. */
  render(gauges: { name: string; help: string; value: number }[]): string;
}

interface Series {
  statuses: Map<number, number>;
  buckets: number[];
  sum: number;
  count: number;
}

export function createMetrics(): Metrics {
  const series = new Map<Method, Series>();
  return {
    observe: (method, status, seconds) => {
      let s = series.get(method);
      if (!s) {
        s = { statuses: new Map(), buckets: BUCKETS_SECONDS.map(() => 0), sum: 0, count: 0 };
        series.set(method, s);
      }
      s.statuses.set(status, (s.statuses.get(status) ?? 0) + 1);
      s.count += 1;
      s.sum += seconds;
      for (const [i, bound] of BUCKETS_SECONDS.entries()) if (seconds <= bound) s.buckets[i]! += 1;
    },
    render: (gauges) => `${[...requestLines(series), ...gauges.flatMap(gaugeLines)].join('\n')}\n`,
  };
}

function requestLines(series: Map<Method, Series>): string[] {
  const total = 'strata_requests_total';
  const duration = 'strata_request_duration_seconds';
  const counts = [`# HELP ${total} Requests answered.`, `# TYPE ${total} counter`];
  const times = [`# HELP ${duration} Time to answer.`, `# TYPE ${duration} histogram`];
  for (const [method, s] of series) {
    for (const [status, n] of s.statuses) counts.push(`${total}{method="${method}",status="${status}"} ${n}`);
    for (const [i, bound] of BUCKETS_SECONDS.entries())
      times.push(`${duration}_bucket{method="${method}",le="${bound}"} ${s.buckets[i]}`);
    times.push(`${duration}_bucket{method="${method}",le="+Inf"} ${s.count}`);
    times.push(`${duration}_sum{method="${method}"} ${s.sum.toFixed(6)}`);
    times.push(`${duration}_count{method="${method}"} ${s.count}`);
  }
  return [...counts, ...times];
}

function gaugeLines(gauge: { name: string; help: string; value: number }): string[] {
  return [`# HELP ${gauge.name} ${gauge.help}`, `# TYPE ${gauge.name} gauge`, `${gauge.name} ${gauge.value}`];
}
