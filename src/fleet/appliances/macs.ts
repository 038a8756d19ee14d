/** MAC addresses of appliances: locally administered, unicast, unique in the fleet, counted up from a random start. */
import { randomBytes } from 'node:crypto';
import { StrataError } from '../../base/index.ts';

/** The address in lower case with colons; throws BAD_NAME, also for group addresses, which no machine can have. */
export function normalizeMac(text: string): string {
  const digits = text.toLowerCase().replaceAll(/[:-]/g, '');
  if (!/^[0-9a-f]{12}$/.test(digits) || !/^[0-9a-f]{2}([:-]?[0-9a-f]{2}){5}$/i.test(text)) {
    throw new StrataError('BAD_NAME', `${JSON.stringify(text)} is not a MAC address`, {
      hint: 'write six pairs of hexadecimal digits, as in 02:53:00:00:00:01',
    });
  }
  if (Number.parseInt(digits.slice(0, 2), 16) & 1) {
    throw new StrataError('BAD_NAME', `${text} is a group address, not a machine's`, {
      hint: 'the first pair must be even, as in 02:53:00:00:00:01',
    });
  }
  return format(digits);
}

function format(digits: string): string {
  return digits.match(/../g)!.join(':');
}

/** `count` addresses that are not taken: consecutive from a random start (02 + 40 random bits). */
export function allocateMacs(count: number, isTaken: (mac: string) => boolean): string[] {
  let next = randomBytes(5).reduce((sum, byte) => sum * 256 + byte, 0);
  const macs: string[] = [];
  while (macs.length < count) {
    const mac = format(`02${next.toString(16).padStart(10, '0')}`);
    next = (next + 1) % 2 ** 40;
    if (!isTaken(mac)) macs.push(mac);
  }
  return macs;
}
