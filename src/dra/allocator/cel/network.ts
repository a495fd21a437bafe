import type { Environment } from "@marcbachmann/cel-js";
import { namespace } from "./lists.ts";

/** An IP address: its bits as one number, 32 or 128 of them. */
class Ip {
  readonly bits: bigint;
  readonly family: 4 | 6;

  constructor(bits: bigint, family: 4 | 6) {
    this.bits = bits;
    this.family = family;
  }
}

class Cidr {
  readonly ip: Ip;
  readonly prefix: number;

  constructor(ip: Ip, prefix: number) {
    this.ip = ip;
    this.prefix = prefix;
  }
}

const ipType = "net.IP";
const cidrType = "net.CIDR";

/** https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-ip-address-library and the CIDR library after it. */
export function registerNetwork(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  environment.registerType(ipType, { ctor: Ip, fields: {} });
  environment.registerType(cidrType, { ctor: Cidr, fields: {} });
  add("isIP(string): bool", (text: string) => parseIp(text) !== undefined);
  add(`ip(string): ${ipType}`, requireIp);
  add(`string(${ipType}): string`, formatIp);
  add(`${ipType}.family(): int`, ({ family }: Ip) => BigInt(family));
  for (const [name, test] of Object.entries(kinds)) add(`${ipType}.${name}(): bool`, test);
  environment.registerOperator(`${ipType} == ${ipType}`, sameIp);
  namespace(environment, "ip", class IpNames {}).registerFunction(
    "IpNames.isCanonical(string): bool",
    (_: unknown, text: string) => {
      return formatIp(requireIp(text)) === text;
    },
  );
  add("isCIDR(string): bool", (text: string) => parseCidr(text) !== undefined);
  add(`cidr(string): ${cidrType}`, requireCidr);
  add(`string(${cidrType}): string`, ({ ip, prefix }: Cidr) => `${formatIp(ip)}/${prefix}`);
  add(`${cidrType}.ip(): ${ipType}`, ({ ip }: Cidr) => ip);
  add(`${cidrType}.prefixLength(): int`, ({ prefix }: Cidr) => BigInt(prefix));
  add(`${cidrType}.masked(): ${cidrType}`, (cidr: Cidr) => new Cidr(masked(cidr.ip, cidr.prefix), cidr.prefix));
  add(`${cidrType}.containsIP(${ipType}): bool`, containsIp);
  add(`${cidrType}.containsIP(string): bool`, (cidr: Cidr, text: string) => containsIp(cidr, requireIp(text)));
  add(`${cidrType}.containsCIDR(${cidrType}): bool`, containsCidr);
  add(`${cidrType}.containsCIDR(string): bool`, (cidr: Cidr, text: string) => containsCidr(cidr, requireCidr(text)));
  environment.registerOperator(
    `${cidrType} == ${cidrType}`,
    (a: Cidr, b: Cidr) => a.prefix === b.prefix && sameIp(a.ip, b.ip),
  );
}

function inRange(ip: Ip, four: string, six: string): boolean {
  return containsIp(requireCidr(ip.family === 4 ? four : six), ip);
}

const isUnspecified = (ip: Ip) => ip.bits === 0n;
const isLoopback = (ip: Ip) => inRange(ip, "127.0.0.0/8", "::1/128");
const isLinkLocalUnicast = (ip: Ip) => inRange(ip, "169.254.0.0/16", "fe80::/10");
const isMulticast = (ip: Ip) => inRange(ip, "224.0.0.0/4", "ff00::/8");
const isBroadcast = (ip: Ip) => ip.family === 4 && ip.bits === 0xffffffffn;
const kinds: Readonly<Record<string, (ip: Ip) => boolean>> = {
  isUnspecified,
  isLoopback,
  isLinkLocalUnicast,
  isLinkLocalMulticast: (ip) =>
    ip.family === 4 ? inRange(ip, "224.0.0.0/24", "") : ((ip.bits >> 112n) & 0xff0fn) === 0xff02n,
  isGlobalUnicast: (ip) =>
    ![isUnspecified, isLoopback, isLinkLocalUnicast, isMulticast, isBroadcast].some((test) => test(ip)),
};

function sameIp(a: Ip, b: Ip): boolean {
  return a.family === b.family && a.bits === b.bits;
}

function masked({ bits, family }: Ip, prefix: number): Ip {
  const rest = BigInt((family === 4 ? 32 : 128) - prefix);
  return new Ip((bits >> rest) << rest, family);
}

function containsIp({ ip, prefix }: Cidr, other: Ip): boolean {
  return ip.family === other.family && masked(ip, prefix).bits === masked(other, prefix).bits;
}

function containsCidr(cidr: Cidr, other: Cidr): boolean {
  return cidr.prefix <= other.prefix && containsIp(cidr, other.ip);
}

function requireIp(text: string): Ip {
  const ip = parseIp(text);
  if (ip === undefined) throw new Error(`IP Address ${JSON.stringify(text)} parse error during conversion from string`);
  return ip;
}

function requireCidr(text: string): Cidr {
  const cidr = parseCidr(text);
  if (cidr === undefined) throw new Error(`network address parse error during conversion from string: ${text}`);
  return cidr;
}

/** Neither zones nor IPv4 addresses in IPv6 form, as Kubernetes. */
function parseIp(text: string): Ip | undefined {
  return text.includes(":") ? parseSix(text) : parseFour(text);
}

function parseFour(text: string): Ip | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined;
  return new Ip(
    parts.reduce((bits, part) => (bits << 8n) | BigInt(part), 0n),
    4,
  );
}

function parseSix(text: string): Ip | undefined {
  const halves = text.split("::");
  if (halves.length > 2 || text.includes(".")) return undefined;
  const [head = [], tail] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined;
  const groups = [...head, ...Array<string>(missing).fill("0"), ...(tail ?? [])];
  if (!groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return undefined;
  const bits = groups.reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
  return bits >> 32n === 0xffffn ? undefined : new Ip(bits, 6);
}

function parseCidr(text: string): Cidr | undefined {
  const [address = "", prefix = "", ...more] = text.split("/");
  const ip = parseIp(address);
  if (ip === undefined || more.length > 0 || !/^(0|[1-9]\d{0,2})$/.test(prefix)) return undefined;
  return Number(prefix) > (ip.family === 4 ? 32 : 128) ? undefined : new Cidr(ip, Number(prefix));
}

/** RFC 5952 for IPv6: lower case, the longest row of zeros shortened, the first of equals. */
function formatIp({ bits, family }: Ip): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 255n).join(".");
  const groups = Array.from({ length: 8 }, (_, i) => ((bits >> BigInt(112 - 16 * i)) & 0xffffn).toString(16));
  const zeros = [...groups.join(":").matchAll(/\b0(?::0)+\b/g)].sort((a, b) => b[0].length - a[0].length)[0];
  if (zeros === undefined) return groups.join(":");
  const text = groups.join(":");
  const before = text.slice(0, zeros.index).replace(/:$/, "");
  return `${before}::${text.slice(zeros.index + zeros[0].length).replace(/^:/, "")}`;
}
