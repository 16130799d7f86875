/* What a scatter makes of an element that is there (buffer 3) and one that comes (buffer 2): op 1 add, 2 multiply,
 * 3 the smaller, 4 the larger. A NaN wins. */
TW_INLINE V3 combined(int64_t op, V3 have, V3 more) {
    switch (op) {
    case 1: return (V3)(have + more);
    case 2: return (V3)(have * more);
    case 3: return have != have || have < more ? have : more;
    case 4: return have != have || have > more ? have : more;
    }
    return more;
}
