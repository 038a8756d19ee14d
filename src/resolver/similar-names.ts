/** Names that a person may have meant: by edit distance (with transpositions), then by name. */

/** At most `count` of `names` within a third of the length of `wanted`, at most 3 edits; the nearest first. */
export function similarNames(wanted: string, names: Iterable<string>, count = 3): string[] {
  const limit = Math.min(3, Math.max(1, Math.floor(wanted.length / 3)));
  const found: { name: string; distance: number }[] = [];
  for (const name of names) {
    if (Math.abs(name.length - wanted.length) > limit) continue;
    const distance = editDistance(wanted, name, limit);
    if (distance <= limit) found.push({ name, distance });
  }
  found.sort((a, b) => a.distance - b.distance || (a.name < b.name ? -1 : 1));
  return found.slice(0, count).map((f) => f.name);
}

/** Optimal string alignment distance, or limit + 1 when it is larger than `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  let twoAgo: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    let least = i;
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let d = Math.min(previous[j]! + 1, row[j - 1]! + 1, previous[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        d = Math.min(d, twoAgo[j - 2]! + 1);
      row.push(d);
      if (d < least) least = d;
    }
    if (least > limit) return limit + 1;
    twoAgo = previous;
    previous = row;
  }
  return previous[b.length]!;
}
