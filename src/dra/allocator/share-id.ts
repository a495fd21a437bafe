/** FNV-1a with 128 bits: offset basis and prime (http://www.isthe.com/chongo/tech/comp/fnv). */
const offsetBasis = 0x6c62272e07bb014262b821756295c58dn;
const prime = 0x0000000001000000000000000000013bn;
const mask = 2n ** 128n - 1n;

/**
 * The ID of a share of a device, as a UUID of version 8 (RFC 9562) that follows from who has what: the planner draws no
 * random numbers, and the same plan gets the same ID.
 */
export function shareId(claimUid: string, request: string, deviceKey: string): string {
  let hash = offsetBasis;
  for (const byte of new TextEncoder().encode(`${claimUid}\n${request}\n${deviceKey}`)) {
    hash = ((hash ^ BigInt(byte)) * prime) & mask;
  }
  const hex = hash.toString(16).padStart(32, "0");
  const variant = "89ab"[Number.parseInt(hex[16]!, 16) % 4];
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20)}`;
}
