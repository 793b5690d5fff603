"""Workers: why one takes no run though it has a free slot."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("trouble", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "trouble")
