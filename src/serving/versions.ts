/** Whether resourceVersion `a` is before `b`: comparable as integers since Kubernetes 1.35 (KEP-5504), of any size. */
export function isOlder(a: string | undefined, b: string | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return a.length === b.length ? a < b : a.length < b.length;
}
