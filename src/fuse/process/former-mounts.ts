/** The VLFSs that a killed strata-fs served, from the ledgers in its holder: their connections, and the stacks that count now. */
import * as sys from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { readLedgerHeader } from '../../vlfs/index.ts';
import type { MountRequest } from '../contract.ts';
import { mapLedger } from '../ledger-memory.ts';
import type { FormerMount } from '../loop/take-over.ts';
import { stackName } from '../stack-name.ts';
import type { Former } from './holding.ts';
import type { MountRecords } from './mount-records.ts';

type StoredSpec = Omit<VlfsSpec, 'stack'> & { id: string };

/** Descriptors of what cannot be used are closed. `wanted`: the mounts that are recorded and there, by id. */
export function formerMounts(
  former: Former,
  records: MountRecords,
  wanted: ReadonlyMap<string, readonly MountRequest[]>,
  log: (line: string) => void,
): FormerMount[] {
  const found = new Map<string, FormerMount>();
  for (const number of former.ledgers) {
    const ledgerFd = former.take(number);
    if (ledgerFd < 0) {
      log(`a ledger cannot be had: ${sys.errnoName(ledgerFd)}`);
      continue;
    }
    const mount = formerMount(former, records, wanted, ledgerFd);
    if (typeof mount === 'string') {
      sys.close(ledgerFd);
      if (mount !== '') log(mount);
    } else found.set(mount.id, mount);
  }
  return [...found.values()];
}

/** The mount, or why there is none ('' when that is in order). */
function formerMount(
  former: Former,
  records: MountRecords,
  wanted: ReadonlyMap<string, readonly MountRequest[]>,
  ledgerFd: number,
): FormerMount | string {
  const memory = mapLedger(ledgerFd);
  const header = memory === null ? null : readLedgerHeader(memory);
  if (header === null || header.fuseFd < 0) return '';
  const { id, ...spec } = JSON.parse(header.spec) as StoredSpec;
  const recorded = wanted.get(id)?.[0];
  const isRecorded = recorded !== undefined && stackName(recorded.vlfs.stack.key) === header.stack;
  const stack = isRecorded ? recorded.vlfs.stack : records.stacks.get(header.stack);
  if (stack === null) return `${id} cannot be taken over: its stack ${header.stack} is not recorded`;
  const fuseFd = former.take(header.fuseFd);
  if (fuseFd < 0) return `${id} cannot be taken over: ${sys.errnoName(fuseFd)}`;
  return { id, spec: { ...spec, stack }, fuseFd, formerLedgerFd: ledgerFd };
}
