"""PostgreSQL 13 to 18 as a service of Tanist: looked at, promoted, held, made a standby, rewound, copied."""
