/** Whether what a power cut left is right: everything that was acknowledged is there, and the command at work is before or after. */
import { isDeepStrictEqual } from 'node:util';
import type { Replayed } from './replay.ts';
import { DELETED, type FileWrite, GONE, type Life, WRITER } from './scenario.ts';

/** Commands that are one step for the template and one for each appliance with layers of its own. */
const IN_PARTS = /^(?:update|rollback|template (?:add|remove|freeze))/;

/** What is wrong with a state, as sentences; [] when nothing is. */
export function verdictOn(life: Life, result: Replayed): string[] {
  const { found, error, position } = result;
  if (found === null) return [error ?? 'nothing was found'];
  const wrong = [...found.problems];
  const last = life.steps.findLastIndex(({ acknowledged }) => acknowledged <= position);
  // What is on the disk only later may be missing.
  const isBefore =
    life.steps[last]!.isLater === true && isDeepStrictEqual(found.picture, life.steps[last - 1]!.after);
  const at = isBefore ? last - 1 : last;
  const before = life.steps[at]!.after;
  const next = life.steps[at + 1];
  const isEither = [before, next?.after].some((picture) => isDeepStrictEqual(found.picture, picture));
  if (!isEither) {
    const parts = partsOf(found.picture).filter(
      ([name, part]) =>
        name !== `appliances ${next?.prepares}` &&
        !isDeepStrictEqual(part, new Map(partsOf(before)).get(name)) &&
        !isDeepStrictEqual(part, new Map(partsOf(next?.after ?? before)).get(name)),
    );
    const missing = partsOf(before)
      .map(([name]) => name)
      .filter(
        (name) =>
          !new Map(partsOf(found.picture)).has(name) && new Map(partsOf(next?.after ?? before)).has(name),
      );
    const isWhole = !IN_PARTS.test(next?.name ?? '') && next?.prepares === undefined;
    if (isWhole || parts.length > 0 || missing.length > 0)
      wrong.push(
        `neither before nor after ${JSON.stringify(next?.name ?? 'the end')}: ${JSON.stringify(Object.fromEntries(parts))} ${missing.length > 0 ? `missing: ${missing}` : ''}`,
      );
  }
  const content = found.content[WRITER];
  if (content !== undefined)
    for (const path of new Set(life.writes.map((write) => write.path)))
      wrong.push(...wrongContent(path, life.writes, content, position));
  return wrong;
}

function partsOf(picture: object): [string, unknown][] {
  return Object.entries(picture).flatMap(([kind, part]) =>
    Array.isArray(part)
      ? [[kind, part] as [string, unknown]]
      : Object.entries(part).map(([name, value]): [string, unknown] => [`${kind} ${name}`, value]),
  );
}

/** A write whose fsync had returned is there; one under way is there, or not, or (unless it is atomic) in part. */
function wrongContent(
  path: string,
  writes: FileWrite[],
  content: { files: Record<string, string>; deleted: string[] },
  position: number,
): string[] {
  const here = writes.filter((write) => write.path === path);
  const last = here.findLast(({ synced }) => synced <= position);
  const underWay = here.filter(({ began, synced }) => began <= position && synced > position);
  if (underWay.some(({ isAtomic }) => !isAtomic)) return [];
  const seen = content.deleted.includes(`/${path}`) ? DELETED : (content.files[`/${path}`] ?? GONE);
  const allowed = [last?.content ?? GONE, ...underWay.map((write) => write.content)];
  if (allowed.some((one) => one === seen)) return [];
  return [`${path} holds ${describe(seen)}, not ${allowed.map(describe).join(' or ')}`];
}

function describe(content: string): string {
  if (content === DELETED) return 'a deletion';
  return content === GONE
    ? 'nothing of its own'
    : `${JSON.stringify(content.slice(0, 20))}... (${content.length})`;
}
